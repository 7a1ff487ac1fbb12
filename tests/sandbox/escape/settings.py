"""Probes: what /proc shows and sets of the whole machine."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.sandbox.escape.probe import probe, refuse


def open_setting(path: str, flags: int) -> Callable[[], object]:
    """Opened and not written to: they are the whole machine's."""
    return lambda: os.close(os.open(path, flags))


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
    probe("userns", name=f"write_/proc/{_path}")(open_setting(f"/proc/{_path}", os.O_WRONLY))

for _path, _walls in {
    "timer_list": "userns",
    "slabinfo": "userns",
    "vmallocinfo": "userns",
    "kcore": "userns caps",
    "kmsg": "userns caps",
}.items():
    probe(_walls, name=f"read_/proc/{_path}")(
        open_setting(f"/proc/{_path}", os.O_RDONLY | os.O_NONBLOCK)
    )


@probe("userns caps")
def addresses_of_the_kernel() -> object:
    with open("/proc/kallsyms") as file:
        first = file.readline().split()
    if not int(first[0], 16):
        raise refuse("zeros")
    return first


@probe("userns caps")
def addresses_of_the_memory() -> object:
    lines = Path("/proc/iomem").read_text().splitlines()
    if all(line.strip().startswith("00000000-00000000") for line in lines):
        raise refuse("zeros")
    return len(lines)
