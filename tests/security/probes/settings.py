"""Probes: what /proc shows and sets of the whole machine."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.security.probes.probe import PRIVILEGED, call, probe, refuse


def open_setting(path: str, flags: int) -> Callable[[], object]:
    """Opened and not written to: they are the whole machine's."""
    return lambda: os.close(os.open(path, flags))


def read_setting(path: str) -> Callable[[], object]:
    def get_out() -> object:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not os.read(file, 8):
            raise refuse("it is covered")
        return path

    return get_out


for _path in (
    "sys/kernel/core_pattern",
    "sys/kernel/sysrq",
    "sys/kernel/modprobe",
    "sys/kernel/panic",
    "sys/kernel/hostname",
    "sys/vm/drop_caches",
    "sys/vm/overcommit_memory",
    "sys/fs/file-max",
    "sys/net/ipv4/ip_forward",
    "sysrq-trigger",
    "irq/default_smp_affinity",
):
    probe("settings", "userns", name=f"write_/proc/{_path}")(
        open_setting(f"/proc/{_path}", os.O_WRONLY)
    )

for _path, _walls in {
    "timer_list": "userns",
    "slabinfo": "userns",
    "vmallocinfo": "userns",
    "kcore": "userns caps",
    "kmsg": "userns caps",
    "kpagecount": "userns",
    "kpageflags": "userns",
    "kpagecgroup": "userns",
    "pagetypeinfo": "userns",
}.items():
    probe("settings", _walls, name=f"read_/proc/{_path}")(read_setting(f"/proc/{_path}"))


@probe("settings", "userns caps")
def addresses_of_the_kernel() -> object:
    with open("/proc/kallsyms") as file:
        first = file.readline().split()
    if not int(first[0], 16):
        raise refuse("zeros")
    return first


@probe("settings", "userns caps")
def addresses_of_the_memory() -> object:
    lines = Path("/proc/iomem").read_text().splitlines()
    if all(line.strip().startswith("00000000-00000000") for line in lines):
        raise refuse("zeros")
    return len(lines)


@probe("settings", "userns")
def keys_of_the_host(key: str) -> object:
    lines = [line for line in Path("/proc/keys").read_text().splitlines() if key in line]
    if not lines:
        raise refuse("not among those shown")
    return lines


def open_sys(path: str) -> Callable[[], object]:
    def get_out() -> object:
        if not os.listdir("/sys"):
            call("mount", b"none\0", b"/sys\0", b"sysfs\0", 0, None)
        return os.close(os.open(path, os.O_WRONLY))

    return get_out


for _path in ("kernel/mm/ksm/run", "power/pm_async", "module/printk/parameters/time"):
    probe("settings", PRIVILEGED, name=f"write_/sys/{_path}")(open_sys(f"/sys/{_path}"))
