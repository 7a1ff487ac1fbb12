"""Probes: system calls one by one, with arguments that no kernel would do anything for.

A filter answers EPERM or ENOSYS. Any other error comes from the kernel behind it.
"""

import ctypes
import errno
import mmap
import os
import platform
import signal
from collections.abc import Callable

from tests.security.probes.probe import PRIVILEGED, but_for, call, probe, refuse

NOWHERE = b"/nowhere\0"
NO_FLAGS = 0xFFFFFFF0
GETPID_OF_32_BITS = 20

BEHIND_THE_FILTER: dict[str, tuple[object, ...]] = {
    "_sysctl": (None,),
    "clock_settime": (0, None),
    "fanotify_mark": (-1, 0, 0, -1, None),
    "fsconfig": (-1, 99, None, None, 0),
    "get_mempolicy": (None, None, 0, 0, NO_FLAGS),
    "io_uring_enter": (-1, 0, 0, 0, None, 0),
    "io_uring_register": (-1, 99, None, 0),
    "ioperm": (70_000, 9, 0),
    "lookup_dcookie": (0, 0, None, 0),
    "mbind": (1, 1, 99, None, 0, NO_FLAGS),
    "migrate_pages": (0, 1 << 60, None, None),
    "move_pages": (0, 1, None, None, None, NO_FLAGS),
    "nfsservctl": (99, None, None),
    "quotactl_fd": (-1, 0x800007 << 8, 0, None),
    "set_mempolicy": (99, None, 0),
    "set_mempolicy_home_node": (1, 1, 99, NO_FLAGS),
    "sysfs": (99, None, None),
    "uselib": (NOWHERE,),
    "ustat": (0, None),
}


def get_past_the_filter(name: str, arguments: tuple[object, ...]) -> Callable[[], object]:
    def get_out() -> object:
        try:
            return call(name, *arguments)
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.ENOSYS):
                raise
            return f"reached the kernel: {errno.errorcode[exc.errno or 0]}"

    return get_out


for _name, _arguments in BEHIND_THE_FILTER.items():
    probe("syscalls", "seccomp", name=f"call_{_name}")(get_past_the_filter(_name, _arguments))


@probe("syscalls", PRIVILEGED)
def kexec_by_file() -> object:
    return but_for(errno.EINVAL, "kexec_file_load", -1, -1, 0, None, 0xFFFF)


@probe("syscalls", PRIVILEGED)
def file_system_for_a_mount() -> object:
    return but_for(errno.EBADF, "fsmount", -1, 0, 0)


@probe("syscalls", PRIVILEGED)
def file_system_of_a_mount() -> object:
    return but_for(errno.EINVAL, "fspick", -1, NOWHERE, NO_FLAGS)


@probe("syscalls", PRIVILEGED)
def move_a_mount() -> object:
    return but_for(errno.EINVAL, "move_mount", -1, NOWHERE, -1, NOWHERE, NO_FLAGS)


# ---------------------------------------------------------------- by another door


@probe("syscalls", "seccomp")
def call_of_32_bits() -> object:
    """`int 0x80` has numbers of its own, which a filter of 64-bit calls takes for others."""
    if platform.machine() != "x86_64":
        raise FileNotFoundError(errno.ENOENT, "no such door")
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8" + GETPID_OF_32_BITS.to_bytes(4, "little") + b"\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return answer_of_32_bits(ctypes.CFUNCTYPE(ctypes.c_int)(address))


def answer_of_32_bits(ask: Callable[[], int]) -> object:
    """From a process of its own: a kernel without this door ends it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os._exit(0 if ask() == os.getpid() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        raise FileNotFoundError(errno.ENOENT, "this kernel has no such door")
    if status:
        raise refuse("not answered")
    return "answered"


@probe("syscalls", "seccomp")
def call_of_x32() -> object:
    """Numbers from 0x40000000 on mean the same calls with short pointers, where there are any."""
    return call("x32_getpid")
