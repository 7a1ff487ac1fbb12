"""Probes: parts of the kernel that are the host's business, or too much of it for a sandbox.

What would harm the machine is only asked for: with arguments that are refused after the check of
privileges and not before.
"""

import ctypes
import os
import struct
from errno import EBADF, EINVAL, ENOENT, ENOEXEC, ENOKEY
from pathlib import Path

from tests.security.probes.probe import PRIVILEGED, but_for, call, probe

AT_FDCWD = -100
SESSION_KEYRING = -3
NOWHERE = b"/nowhere\0"


@probe("syscalls", "seccomp")
def io_uring() -> object:
    return call("io_uring_setup", 1, ctypes.create_string_buffer(120))


@probe("syscalls", "seccomp")
def keyring() -> object:
    return call("keyctl", 0, SESSION_KEYRING, 1)


@probe("syscalls", "seccomp")
def add_key() -> object:
    return call("add_key", b"user\0", b"probe\0", b"secret\0", 6, SESSION_KEYRING)


@probe("syscalls", "seccomp")
def request_key() -> object:
    return but_for(ENOKEY, "request_key", b"user\0", b"rollout-none\0", None, 0)


@probe("syscalls", "seccomp")
def userfaultfd() -> object:
    return call("userfaultfd", 1)  # USER_MODE_ONLY


@probe("syscalls", PRIVILEGED)
def bpf() -> object:
    array = struct.pack("<IIII", 2, 4, 4, 1).ljust(128, b"\0")
    return call("bpf", 0, ctypes.create_string_buffer(array, 128), 128)


@probe("syscalls", PRIVILEGED)
def perf_events() -> object:
    software_clock, exclude_kernel = struct.pack("<IIQ", 1, 112, 0), struct.pack("<Q", 1 << 5)
    attributes = (software_clock + bytes(24) + exclude_kernel).ljust(112, b"\0")
    return call("perf_event_open", ctypes.create_string_buffer(attributes, 112), 0, -1, -1, 0)


@probe("syscalls", PRIVILEGED)
def kexec() -> object:
    return but_for(EINVAL, "kexec_load", 0, 99_999, None, 0)


@probe("syscalls", PRIVILEGED)
def load_module() -> object:
    return but_for(ENOEXEC, "init_module", bytes(64), 64, b"\0")


@probe("syscalls", PRIVILEGED)
def load_module_file() -> object:
    return but_for(EBADF, "finit_module", -1, b"\0", 0)


@probe("syscalls", PRIVILEGED)
def unload_module() -> object:
    return but_for(ENOENT, "delete_module", b"rollout_none\0", 0o4000)


@probe("syscalls", PRIVILEGED)
def reboot() -> object:
    return but_for(EINVAL, "reboot", 1, 2, 3, None)


@probe("syscalls", PRIVILEGED)
def set_clock() -> object:
    """The time zone, to what it is; for the time itself takes the same right."""
    return call("settimeofday", None, (ctypes.c_int * 2)(0, 0))


@probe("syscalls", "userns caps")
def adjust_clock() -> object:
    """Its tick, to what it is."""
    timex = (ctypes.c_long * 26)()
    call("adjtimex", timex)
    timex[0] = 0x4000
    return call("adjtimex", timex)


@probe("syscalls", PRIVILEGED)
def swap_on() -> object:
    return but_for(ENOENT, "swapon", NOWHERE, 0)


@probe("syscalls", PRIVILEGED)
def swap_off() -> object:
    return but_for(ENOENT, "swapoff", NOWHERE)


@probe("syscalls", "seccomp")
def quotas() -> object:
    return call("quotactl", 0x800001 << 8, None, 0, None)  # Q_SYNC, all


@probe("syscalls", PRIVILEGED)
def accounting() -> object:
    return but_for(ENOENT, "acct", NOWHERE)


@probe("syscalls", PRIVILEGED)
def kernel_log() -> object:
    return call("syslog", 3, ctypes.create_string_buffer(100), 100)


@probe("syscalls", PRIVILEGED)
def fanotify() -> object:
    return call("fanotify_init", 0x4, 0)  # CLASS_CONTENT: may answer for others' opens


@probe("syscalls", PRIVILEGED)
def io_ports() -> object:
    return call("iopl", 3)


@probe("syscalls", PRIVILEGED)
def file_by_handle() -> object:
    """Past every folder on the way: how containers with this right read their host's files."""
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0), 136)
    call("name_to_handle_at", AT_FDCWD, b"/dev/full\0", handle, ctypes.c_int(), 0)
    with open("/dev/null") as mount:
        return os.readlink(
            f"/proc/self/fd/{call('open_by_handle_at', mount.fileno(), handle, os.O_RDONLY)}"
        )


@probe("syscalls", PRIVILEGED)
def host_name() -> object:
    call("sethostname", b"escaped\0", 7)
    return os.uname().nodename


@probe("syscalls", PRIVILEGED)
def domain_name() -> object:
    return call("setdomainname", b"escaped\0", 7)


# ---------------------------------------------------------------- mounts


@probe("nesting", PRIVILEGED)
def mount_tmpfs() -> object:
    return call("mount", b"none\0", b"/mnt\0", b"tmpfs\0", 0, None)


@probe("nesting", PRIVILEGED)
def mount_sysfs() -> object:
    call("mount", b"none\0", b"/sys\0", b"sysfs\0", 0, None)
    return os.listdir("/sys")


@probe("nesting", PRIVILEGED)
def bind_mount() -> object:
    return call("mount", b"/etc\0", b"/mnt\0", None, 0x1000, None)


@probe("nesting", PRIVILEGED)
def remount_dev_writable() -> object:
    return call("mount", None, b"/dev\0", None, 0x1020, None)


@probe("nesting", PRIVILEGED)
def unmount() -> object:
    return call("umount2", b"/dev/shm\0", 2)


@probe("nesting", PRIVILEGED)
def pivot_root() -> object:
    call("unshare", 0x20000)
    call("mount", b"none\0", b"/srv\0", b"tmpfs\0", 0, None)
    os.chdir("/srv")
    call("pivot_root", b".\0", b".\0")
    call("umount2", b".\0", 2)
    return os.listdir("/")


@probe("nesting", PRIVILEGED)
def new_mount_api() -> object:
    return call("fsopen", b"tmpfs\0", 0)


@probe("nesting", PRIVILEGED)
def clone_of_a_mount() -> object:
    return call("open_tree", AT_FDCWD, b"/\0", 1)


@probe("nesting", PRIVILEGED)
def attributes_of_a_mount() -> object:
    nosuid = (ctypes.c_uint64 * 4)(2, 0, 0, 0)
    return call("mount_setattr", AT_FDCWD, b"/dev/pts\0", 0, nosuid, 32)


@probe("nesting", PRIVILEGED)
def cgroup_files() -> object:
    call("mount", b"none\0", b"/mnt\0", b"cgroup2\0", 0, None)
    with open("/mnt/cgroup.procs", "w"):
        return os.listdir("/mnt")


@probe("nesting", f"{PRIVILEGED} cgroup")
def leave_the_cgroup() -> object:
    call("mount", b"none\0", b"/mnt\0", b"cgroup2\0", 0, None)
    Path("/mnt/cgroup.procs").write_text("0")
    return Path("/proc/self/cgroup").read_text()


@probe("nesting", f"{PRIVILEGED} cgroup")
def release_agent() -> object:
    """The program that v1 runs on the host when a group gets empty."""
    call("mount", b"none\0", b"/mnt\0", b"cgroup\0", 0, b"pids\0")
    with open("/mnt/release_agent", "w") as file:
        return file.name
