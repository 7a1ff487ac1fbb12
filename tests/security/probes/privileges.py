"""Probes: more privileges than a sandbox is given, and namespaces in which one would have them."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.security.probes.probe import PRIVILEGED, call, probe, refuse

CUT = {
    2: "dac_read_search",
    8: "setpcap",
    9: "linux_immutable",
    11: "net_broadcast",
    12: "net_admin",
    13: "net_raw",
    14: "ipc_lock",
    15: "ipc_owner",
    16: "sys_module",
    17: "sys_rawio",
    19: "sys_ptrace",
    20: "sys_pacct",
    21: "sys_admin",
    22: "sys_boot",
    23: "sys_nice",
    24: "sys_resource",
    25: "sys_time",
    26: "sys_tty_config",
    27: "mknod",
    28: "lease",
    29: "audit_write",
    30: "audit_control",
    32: "mac_override",
    33: "mac_admin",
    34: "syslog",
    35: "wake_alarm",
    36: "block_suspend",
    37: "audit_read",
    38: "perfmon",
    39: "bpf",
    40: "checkpoint_restore",
}
NAMESPACES = {
    "mnt": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x80,
}
NOBODY = 65534
VERSION_3 = 0x20080522


def raise_capability(number: int) -> Callable[[], object]:
    def get_out() -> object:
        header, data = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
        call("capget", header, data)
        for word in (0, 1):  # effective, permitted
            data[number // 32 * 3 + word] |= 1 << number % 32
        call("capset", header, data)
        return "raised"

    return get_out


for _number, _name in CUT.items():
    probe("capabilities", "caps", name=f"cap_{_name}")(raise_capability(_number))


PRINT_CAPABILITIES = "print(open('/proc/self/status').read().partition('CapEff:\\t')[2].split()[0])"


def beyond_kept(text: str) -> str:
    gained = int(text, 16) & sum(1 << number for number in CUT)
    if not gained:
        raise refuse("nothing gained")
    return hex(gained)


@probe("capabilities", "bounding no_new_privs")
def regain_capabilities_as_root() -> object:
    """Whoever is uid 0 gets the whole bounding set from every program it starts."""
    command = [sys.executable, "-c", PRINT_CAPABILITIES]
    return beyond_kept(subprocess.run(command, capture_output=True, text=True).stdout)


@probe("capabilities", "bounding no_new_privs")
def regain_capabilities_by_file() -> object:
    """A program that says it may have CAP_NET_RAW and CAP_SYS_ADMIN, run by a mere user."""
    program = "/tmp/capable"
    shutil.copy(os.path.realpath(sys.executable), program)
    wanted = 1 << 13 | 1 << 21
    data = struct.pack("<IIIII", 0x02000001, wanted, 0, 0, 0)
    os.setxattr(program, "security.capability", data)
    command = [program, "-c", PRINT_CAPABILITIES]
    return beyond_kept(
        subprocess.run(command, capture_output=True, text=True, user=NOBODY, group=NOBODY).stdout
    )


@probe("setuid", "no_new_privs")
def become_root_by_setuid_program() -> object:
    program = "/tmp/become"
    shutil.copy("/usr/bin/id", program)
    os.chmod(program, 0o4755)
    result = subprocess.run(
        [program, "-u"], capture_output=True, text=True, user=NOBODY, group=NOBODY
    )
    if result.stdout.strip() != "0":
        raise refuse(result.stdout + result.stderr)
    return "root"


@probe("uids", "userns")
def uid_outside_the_range() -> object:
    os.setresuid(70_000, 70_000, 70_000)
    return os.getresuid()


@probe("uids", "userns")
def file_of_a_foreign_uid() -> object:
    path = Path("/tmp/foreign")
    path.touch()
    os.chown(path, 70_000, 70_000)
    return path.stat().st_uid


# ---------------------------------------------------------------- namespaces inside


def unshare(flag: int) -> Callable[[], object]:
    return lambda: call("unshare", flag)


for _kind, _flag in NAMESPACES.items():
    _walls = "seccomp nesting" if _kind == "user" else "seccomp nesting caps"
    probe("nesting", _walls, name=f"unshare_{_kind}")(unshare(_flag))


def cloned(pid: int) -> object:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@probe("nesting", "seccomp nesting")
def clone_user() -> object:
    return cloned(call("clone", NAMESPACES["user"] | 17, None, None, None, None))


@probe("nesting", "seccomp nesting")
def clone3_user() -> object:
    arguments = (ctypes.c_uint64 * 8)(NAMESPACES["user"], 0, 0, 0, 17)
    return cloned(call("clone3", arguments, 64))


@probe("nesting", "seccomp nesting caps")
def mount_in_namespaces_of_its_own() -> object:
    """What rootless containers do: a user namespace, and in it all else."""
    call("unshare", NAMESPACES["user"] | NAMESPACES["mnt"])
    return call("mount", b"none\0", b"/mnt\0", b"tmpfs\0", 0, None)


@probe("nesting", PRIVILEGED)
def setns() -> object:
    with open("/proc/self/ns/uts") as namespace:
        return call("setns", namespace.fileno(), 0)


@probe("nesting", "caps")
def raise_the_limit_of_namespaces() -> object:
    return Path("/proc/sys/user/max_user_namespaces").write_text("9")


# ---------------------------------------------------------------- more of the machine than its due


@probe("capabilities", "userns caps")
def priority_above_others() -> object:
    return os.nice(-5)


@probe("capabilities", "userns caps")
def real_time_scheduling() -> object:
    return os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@probe("capabilities", "userns caps")
def real_time_disk() -> object:
    return call("ioprio_set", 1, 0, 1 << 13)


@probe("syscalls", "seccomp")
def odd_personality() -> object:
    return call("personality", 0x0400000)  # READ_IMPLIES_EXEC
