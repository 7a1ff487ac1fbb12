"""What version 1 and version 2 of control groups call the same limit, and how each counts it.

A limit knows the files that set it, whether it was run into, and how much of it is in use.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

CONTROLLERS = ("cpu", "memory", "pids")
PERIOD_US = 100_000
LEAST_QUOTA_US = 1_000
LEAST_PERIODS = 10
"""Fewer periods of cpu time than this (1 s of running) say nothing yet."""
READ_BYTES = 1 << 16
MANY_PROCESSES = 1_024
FEW_PROCESSES = 64
MIB = 1 << 20

Writes = list[tuple[Path, str]]


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit is in use now."""

    share: float
    """1 is all of it."""
    text: str


class Limit(Protocol):
    """One limit of one sandbox."""

    @property
    def name(self) -> str:
        """Of `cpu memory pids disk`."""

    @property
    def told(self) -> str:
        """As `limits_enforced` has it: the name, and in which weaker way it holds, if so."""

    def reason(self) -> str:
        """How it was run into, as the kernel counted; empty if it was not."""

    def use(self) -> Use | None:
        """None where nothing can be said now. Takes microseconds, and may block for more."""


@dataclass(slots=True)
class CpuLimit:
    """Nothing is ever killed or refused for it. Its use is the share of the 100 ms periods in
    which the sandbox ran, since the look before, that ended with it being held back."""

    folder: Path
    cores: float
    in_v2: bool
    _before: tuple[int, int] = (0, 0)

    name = told = "cpu"

    @property
    def writes(self) -> Writes:
        quota = str(max(LEAST_QUOTA_US, math.ceil(self.cores * PERIOD_US)))
        if self.in_v2:
            return [(self.folder / "cpu.max", f"{quota} {PERIOD_US}")]
        period = (self.folder / "cpu.cfs_period_us", str(PERIOD_US))
        return [period, (self.folder / "cpu.cfs_quota_us", quota)]

    def reason(self) -> str:
        return ""

    def use(self) -> Use | None:
        ran, held_back = read_keys(f"{self.folder}/cpu.stat", "nr_periods", "nr_throttled")
        periods, throttled = ran - self._before[0], held_back - self._before[1]
        if periods < LEAST_PERIODS:
            return None
        self._before = (ran, held_back)
        text = f"held back in {throttled} of {periods} periods, limit {self.cores:g} cores"
        return Use(throttled / periods, text)


@dataclass(frozen=True, slots=True)
class PidsLimit:
    folder: Path
    processes: int

    name = told = "pids"

    @property
    def writes(self) -> Writes:
        # The init is one of them and no part of what was asked for.
        return [(self.folder / "pids.max", str(self.processes + 1))]

    @property
    def _used(self) -> int:
        return max(0, read_number(f"{self.folder}/pids.current") - 1)

    def reason(self) -> str:
        refused = read_key(f"{self.folder}/pids.events", "max")
        if not refused:
            return ""
        return (
            f"{refused} times refused a new process at the limit of {self.processes}; "
            f"{self._used} run now"
        )

    def use(self) -> Use | None:
        return Use(self._used / self.processes, f"{self._used} of {self.processes} processes")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A memory directory of the sandbox's own. Its use leaves out the page cache of files that
    nobody has touched lately: the kernel drops that rather than kill anything."""

    folder: Path
    memory_mb: int
    in_v2: bool

    name = told = "memory"

    @property
    def writes(self) -> Writes:
        return memory_writes(self.folder, self.memory_mb, in_v2=self.in_v2)

    def reason(self) -> str:
        killed = killed_for_memory(self.folder, in_v2=self.in_v2)
        if not killed:
            return ""
        return (
            f"{killed} of its processes killed at the limit of {self.memory_mb} MiB; "
            f"{held_in(self.folder, in_v2=self.in_v2) // MIB} MiB held now"
        )

    def use(self) -> Use | None:
        limit = self.memory_mb * MIB
        used = read_number(f"{self.folder}/{_usage_file(self.in_v2)}")
        if used >= 0.8 * limit:  # only then is the dearer file worth reading
            used = held_in(self.folder, in_v2=self.in_v2)
        return Use(used / limit, f"{used // MIB} of {self.memory_mb} MiB")


@dataclass(frozen=True, slots=True)
class GroupedMemoryLimit:
    """A part in a memory directory that several sandboxes share: the sum of their limits holds
    them all. What this one holds is told by its processes; whose process was killed is not told."""

    folder: Path
    memory_mb: int
    in_v2: bool
    sandbox: Path
    """The version 2 directory with this sandbox's own processes."""
    killed_before: int
    """In the group, before this sandbox came."""

    name = "memory"
    told = "memory (group)"

    def reason(self) -> str:
        killed = killed_for_memory(self.folder, in_v2=self.in_v2) - self.killed_before
        if killed <= 0:
            return ""
        return (
            f"{killed} processes of its memory group killed at the summed limit of the sandboxes "
            f"in it; {held_by_processes(self.sandbox) // MIB} MiB of its own {self.memory_mb} MiB "
            "held now"
        )

    def use(self) -> Use | None:
        used = held_by_processes(self.sandbox)
        return Use(used / (self.memory_mb * MIB), f"{used // MIB} of {self.memory_mb} MiB")


# ---------------------------------------------------------------- memory, in both versions


def memory_writes(folder: Path, memory_mb: int, *, in_v2: bool) -> Writes:
    """In the order in which version 1 takes them for a lower limit than there was."""
    amount = str(memory_mb * MIB)
    if in_v2:
        return [(folder / "memory.max", amount), (folder / "memory.swap.max", "0")]
    swap = folder / "memory.memsw.limit_in_bytes"
    writes = [(folder / "memory.limit_in_bytes", amount)]
    if _counts_swap(folder.parent):
        writes.append((swap, amount))
    return writes


@lru_cache(maxsize=64)
def _counts_swap(above: Path) -> bool:
    return (above / "memory.memsw.limit_in_bytes").exists()


def killed_for_memory(folder: Path, *, in_v2: bool) -> int:
    """Processes killed for the limit of this directory. The kernel's `oom_kill` counts those that
    it killed for the whole machine too, so it says nothing where the limit was never reached."""
    if in_v2:
        killed, reached = read_keys(f"{folder}/memory.events", "oom_kill", "oom")
    else:
        killed = read_key(f"{folder}/memory.oom_control", "oom_kill")
        reached = killed and _reached_v1(folder)
    return killed if reached else 0


def _reached_v1(folder: Path) -> bool:
    """By the high-water mark, since newer kernels no longer count in `memory.failcnt`."""
    highest = read_number(f"{folder}/memory.max_usage_in_bytes")
    return highest + MIB >= read_number(f"{folder}/memory.limit_in_bytes")


def held_in(folder: Path, *, in_v2: bool) -> int:
    """Bytes that killing all in this directory would give back."""
    idle = "inactive_file" if in_v2 else "total_inactive_file"
    used = read_number(f"{folder}/{_usage_file(in_v2)}")
    return max(0, used - read_key(f"{folder}/memory.stat", idle))


def held_by_processes(folder: Path, *, closer: bool = False) -> int:
    """Bytes of memory that the processes of this version 2 directory have, without files.

    What they share since a fork is counted for each, unless `closer`: then the largest of them
    are asked for their part of it, which costs milliseconds for each gigabyte.
    """
    pids = read_text(f"{folder}/cgroup.procs").split()[:MANY_PROCESSES]
    sizes = sorted(((_own_bytes(pid), pid) for pid in pids), reverse=True)
    if not closer:
        return sum(size for size, _ in sizes)
    largest, rest = sizes[:FEW_PROCESSES], sizes[FEW_PROCESSES:]
    return sum(_part_bytes(pid) for _, pid in largest) + sum(size for size, _ in rest)


def _own_bytes(pid: str) -> int:
    fields = read_text(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _part_bytes(pid: str) -> int:
    lines = read_text(f"/proc/{pid}/smaps_rollup").splitlines()
    parts = dict(line.split(":", 1) for line in lines[1:])
    return sum(int(parts.get(key, "0").split()[0]) * 1024 for key in ("Pss_Anon", "Pss_Shmem"))


def _usage_file(in_v2: bool) -> str:
    return "memory.current" if in_v2 else "memory.usage_in_bytes"


# ---------------------------------------------------------------- the kernel's files


def read_text(file: Path | str) -> str:
    """A file of the kernel's, its first 64 KiB; empty if it is gone.

    Without the layers of `open`, for this is done thousands of times."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, READ_BYTES).decode()
    except OSError:
        return ""
    finally:
        os.close(handle)


def read_number(file: Path | str) -> int:
    """0 if the file is gone."""
    return int(read_text(file).strip() or 0)


def read_keys(file: Path | str, *keys: str) -> Sequence[int]:
    """The numbers behind these words, 0 for what is not there."""
    found = dict(line.split(" ", 1) for line in read_text(file).splitlines())
    return [int(found.get(key, 0)) for key in keys]


def read_key(file: Path | str, key: str) -> int:
    return read_keys(file, key)[0]


def write_text(file: Path, text: str) -> None:
    with file.open("w") as handle:
        handle.write(text)
