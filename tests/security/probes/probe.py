"""What a probe is, and the bare system calls it is made of. Runs inside sandboxes: stdlib only.

A probe is a function that gets at something a sandbox must not have. It returns what it got, and
is refused by raising OSError. `wall` is what an engine declares to have (rollout/sandbox/walls.py).
`without` names the parts of the native engine (rollout/sandbox/init/weaken.c) that stand in its
way: where a sandbox lacks exactly those, the probe must succeed. `laid` means that things of the
host lie in its root.
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

PATIENCE_S = 30
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
    wall: str
    without: frozenset[str]
    get_out: Callable[[dict[str, Any]], object]


PROBES: dict[str, Probe] = {}


def probe(
    wall: str, without: str, name: str = ""
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`without` is split at blanks. The function takes the facts of the host that it needs."""

    def add(function: Callable[..., object]) -> Callable[..., object]:
        code = function.__code__
        wanted = code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]

        def call(facts: dict[str, Any]) -> object:
            return function(*(facts[fact] for fact in wanted))

        label = name or function.__name__
        assert label not in PROBES, label
        PROBES[label] = Probe(label, wall, frozenset(without.split()), call)
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
    "_sysctl": (156, -1),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_mempolicy": (239, 236),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "ioprio_set": (251, 30),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
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
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, -1),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, -1),
    "userfaultfd": (323, 282),
    "ustat": (136, -1),
    "x32_getpid": (0x40000000 + 39, -1),
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
