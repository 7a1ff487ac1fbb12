"""What a probe is, and the bare system calls it is made of. Runs inside sandboxes: stdlib only.

A probe is a function that gets at something a sandbox must not have. It returns what it got, and
is refused by raising OSError. `without` names the walls (see rollout/sandbox/init/weaken.c) that
stand in its way: where a sandbox lacks exactly those, the probe must succeed.
"""

import ctypes
import errno
import os
import platform
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PRIVILEGED = "userns caps seccomp"
"""What makes root inside the root of the host."""

PATIENCE_S = 10
ESCAPED, REFUSED, ABSENT, BROKEN = "escaped", "refused", "absent", "broken"

ABSENT_ERRORS = {
    errno.ENOSYS,
    errno.EAFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.EOPNOTSUPP,
    errno.ENODEV,
    errno.ENOENT,
}
"""How a kernel says that it lacks the thing altogether. As an answer of a real sandbox it counts
as a refusal; of a weakened one it says that this machine cannot show the escape."""


@dataclass(frozen=True)
class Probe:
    name: str
    without: frozenset[str]
    get_out: Callable[[dict[str, Any]], object]


PROBES: dict[str, Probe] = {}


def probe(without: str, name: str = "") -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`without`: walls, split at blanks. The function takes the facts of the host it needs."""

    def add(function: Callable[..., object]) -> Callable[..., object]:
        code = function.__code__
        wanted = code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]

        def call(facts: dict[str, Any]) -> object:
            return function(*(facts[fact] for fact in wanted))

        label = name or function.__name__
        assert label not in PROBES, label
        PROBES[label] = Probe(label, frozenset(without.split()), call)
        return function

    return add


def attempt(found: Probe, facts: dict[str, Any]) -> tuple[str, str]:
    """How it went and what was seen, from a process of its own: probes change who they are."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE_S)
        os.write(writer, "\t".join(_outcome(found, facts)).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome, _, seen = pipe.read().decode(errors="replace").partition("\t")
    _, status = os.waitpid(pid, 0)
    return (outcome, seen) if outcome else (BROKEN, f"it said nothing and ended with {status}")


def _outcome(found: Probe, facts: dict[str, Any]) -> tuple[str, str]:
    try:
        return ESCAPED, repr(found.get_out(facts))
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, str(exc))
        return ABSENT if exc.errno in ABSENT_ERRORS else REFUSED, name
    except Exception:  # noqa: BLE001 - whatever it is, it goes into the report
        return BROKEN, traceback.format_exc()


def refuse(reason: str) -> OSError:
    """For what no system call refuses by itself."""
    return OSError(errno.EPERM, reason)


# ---------------------------------------------------------------- bare system calls

_X86 = platform.machine() == "x86_64"
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "iopl": (172, -1),
    "ioprio_set": (251, 30),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}


def call(name: str, *arguments: Any) -> int:
    """The system call's result; OSError with its errno. Bytes and ctypes objects go by address."""
    ctypes.set_errno(0)
    number = _NUMBERS[name][0 if _X86 else 1]
    result = _LIBC.syscall(ctypes.c_long(number), *map(_word, arguments))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _word(argument: Any) -> Any:
    if argument is None or isinstance(argument, int):
        return ctypes.c_long(argument or 0)
    return argument if isinstance(argument, bytes) else ctypes.byref(argument)


def but_for(error: int, name: str, *arguments: Any) -> str:
    """A call with arguments that can do no harm: `error` is what one gets who would be allowed."""
    try:
        call(name, *arguments)
    except OSError as exc:
        if exc.errno != error:
            raise
    return f"allowed; {errno.errorcode[error]} for the arguments alone"
