"""Control groups of sandboxes: one version 2 directory each, and version 1 where v2 lacks a limit.

The v2 directory is always there, for it starts, freezes and kills a sandbox whatever controllers
the machine gives it. A limit costs a directory only where it was asked for. All of it stands below
`rollout/<owner>/` of each hierarchy, so that a sweep finds it by its owner.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.controllers import (
    CONTROLLERS,
    MIB,
    CpuLimit,
    Limit,
    MemoryLimit,
    PidsLimit,
    held_by_processes,
    held_in,
    read_key,
    read_number,
    write_text,
)
from rollout.sandbox.memory_groups import Batches, MemoryGroup, MemoryGroups, hand_down
from rollout.types import Resources

FOLDER = "rollout"
UNLIMITED = "unlimited"
"""Of sandboxes without a memory limit, where version 2 has the memory controller."""
EACH_UP_TO = 2_000
"""Live memory directories of one owner from which on `auto` makes groups: each costs 22 KiB, and
16 bytes for each file system that was ever mounted at one time, of which a sandbox has four."""
NO_PROCESSES_TIMEOUT_S = 10.0
TAKE_BACK_TRIES = 10
TAKE_BACK_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where this machine's control groups are mounted."""

    v2: Path
    v1: Mapping[str, Path]
    """Controller to mount point, of those v2 does not have."""

    @classmethod
    def of_machine(cls, mounts: Path = Path("/proc/self/mounts")) -> "Hierarchies":
        """SandboxError if there is no version 2 hierarchy."""
        v2: Path | None = None
        v1: dict[str, Path] = {}
        for line in mounts.read_text().splitlines():
            _, point, kind, options = line.split(" ")[:4]
            if kind == "cgroup2":
                v2 = v2 or Path(point)
            elif kind == "cgroup":
                held = set(options.split(",")) & set(CONTROLLERS)
                v1 |= {name: Path(point) for name in held if name not in v1}
        if v2 is None:
            raise SandboxError(
                "no cgroup v2 hierarchy is mounted, so sandboxes cannot be frozen or killed as "
                "a whole: mount -t cgroup2 none /sys/fs/cgroup/unified"
            )
        in_v2 = (v2 / "cgroup.controllers").read_text().split()
        return cls(v2, {name: point for name, point in v1.items() if name not in in_v2})

    @property
    def mount_points(self) -> tuple[Path, ...]:
        return (self.v2, *dict.fromkeys(self.v1.values()))

    def owners(self) -> frozenset[str]:
        """All owners that any hierarchy still holds directories of."""
        return frozenset(
            child.name for point in self.mount_points for child in _directories(point / FOLDER)
        )

    def end_owner(self, owner: str) -> None:
        """Kill whatever runs below this owner and remove its directories. Blocks, bounded."""
        top = self.v2 / FOLDER / owner
        if top.is_dir():
            write_text(top / "cgroup.kill", "1")
            _await_empty(top)
        for point in self.mount_points:
            top = point / FOLDER / owner
            for child in _directories(top):
                _remove_directories(child)
            _take_back(top)
            _remove_directories(top)
            with suppress(OSError):  # other owners are still below it
                (point / FOLDER).rmdir()


def limits_in_sight(mounts: Path = Path("/proc/self/mounts")) -> frozenset[str]:
    """Limits whose control groups seem to be there and writable; nothing is made."""
    try:
        trees = Hierarchies.of_machine(mounts)
        in_v2 = (trees.v2 / "cgroup.controllers").read_text().split()
    except (SandboxError, OSError):
        return frozenset()
    places = {**dict.fromkeys(in_v2, trees.v2), **trees.v1}
    return frozenset(
        name for name in CONTROLLERS if name in places and os.access(places[name], os.W_OK)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlan:
    """The directories of one sandbox and what is written into them, in order."""

    v2: Path
    joins: tuple[Path, ...] = ()
    """Version 1 directories of its own."""
    shared: tuple[Path, ...] = ()
    """Version 1 directories that it joins and others use as well."""
    writes: tuple[tuple[Path, str], ...] = ()
    limits: tuple[Limit, ...] = ()
    """Those that hold."""
    data_limit_bytes: int = 0
    """RLIMIT_DATA of each process; 0 for none."""
    process_limit: int = 0
    """RLIMIT_NPROC of its user namespace; 0 for none."""

    @property
    def enforced(self) -> tuple[str, ...]:
        return tuple(limit.told for limit in self.limits)

    def freeze(self, frozen: bool) -> None:
        write_text(self.v2 / "cgroup.freeze", "1" if frozen else "0")

    @property
    def frozen(self) -> bool:
        return read_key(self.v2 / "cgroup.events", "frozen") != 0

    def kill(self) -> None:
        """Kill all in it; fine if it is gone."""
        if self.v2.is_dir():
            write_text(self.v2 / "cgroup.kill", "1")

    def held_bytes(self, files_bytes: int, *, closer: bool = False) -> int:
        """Memory that would be free without this sandbox, whose tmpfs holds so much. Blocks."""
        for limit in self.limits:
            if isinstance(limit, MemoryLimit):
                return held_in(limit.folder, in_v2=limit.in_v2)
        return held_by_processes(self.v2, closer=closer) + files_bytes

    @property
    def directories(self) -> tuple[Path, ...]:
        """What is to be removed after its end."""
        return (self.v2, *self.joins)


class Cgroups:
    """The control groups of one owner."""

    def __init__(
        self, hierarchies: Hierarchies, owner: str, *, memory: str = "each", group_size: int = 8
    ) -> None:
        """`memory`: `each | group | auto`, as in the config."""
        self._hierarchies = hierarchies
        self._owner = owner
        self._top = hierarchies.v2 / FOLDER / owner
        self._mode = memory
        self._group_size = group_size
        self._shared: MemoryGroups | None = None
        self._batches: Batches | None = None
        self._alone: set[str] = set()
        """Sandboxes with a memory directory of their own."""
        self._in_v2: frozenset[str] = frozenset()
        self._in_v1: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make the owner's directories and find out which limits hold."""
        top = self._top
        try:
            _make_directory(top)
        except OSError as exc:
            raise SandboxError(
                f"cannot make the cgroup {top}: {exc.strerror}; in a container, mount "
                "/sys/fs/cgroup writable or run it privileged"
            ) from exc
        self._in_v2 = self._delegate(top)
        if "memory" in self._in_v2:
            hand_down(top / UNLIMITED, self._in_v2 - {"memory"})
        for name, point in self._hierarchies.v1.items():
            try:
                _make_directory(point / FOLDER / self._owner)
            except OSError:
                continue
            self._in_v1[name] = point / FOLDER / self._owner
        if "memory" in self._in_v1:
            self._batches = Batches(self._in_v1["memory"])

    def _delegate(self, top: Path) -> frozenset[str]:
        """Hand v2's controllers down to `top`; those that some level refuses cannot be used."""
        usable = set((self._hierarchies.v2 / "cgroup.controllers").read_text().split())
        for folder in (self._hierarchies.v2, top.parent, top):
            for name in sorted(usable & set(CONTROLLERS)):
                try:
                    write_text(folder / "cgroup.subtree_control", f"+{name}")
                except OSError:
                    usable.discard(name)
        return frozenset(usable & set(CONTROLLERS))

    @property
    def limits(self) -> frozenset[str]:
        return self._in_v2 | frozenset(self._in_v1)

    def adopt(self, pid: int) -> None:
        """Put the launcher below the owner, so that ending the owner ends it too."""
        folder = self._top / "launcher"
        folder.mkdir(exist_ok=True)
        with suppress(ProcessLookupError):  # it has ended, which its pipe tells
            write_text(folder / "cgroup.procs", str(pid))

    def plan(self, sandbox: str, resources: Resources) -> CgroupPlan:
        """Makes directories only where sandboxes share one; the launcher makes the others."""
        asked = {
            name: amount
            for name in CONTROLLERS
            if (amount := getattr(resources, name if name != "memory" else "memory_mb")) is not None
        }
        held = [name for name in asked if name in self.limits]
        group: MemoryGroup | None = None
        places = dict(self._in_v1)
        if "memory" in held and self._in_group():
            group = self._groups().join(sandbox, resources.memory_mb or 0)
        elif "memory" in held:
            self._alone.add(sandbox)
            if self._batches is not None:
                batch = self._batches.join(sandbox)
                # With all that one hierarchy holds: a process is in one place of it.
                places = {n: batch if top == places["memory"] else top for n, top in places.items()}
        v2 = self._home(group, alone="memory" in held) / sandbox
        joins: dict[Path, None] = {}
        writes: list[tuple[Path, str]] = []
        limits: list[Limit] = []
        for name in held:
            if name == "memory" and group is not None:
                writes += group.raise_writes()
                limits.append(group.limit_of(sandbox, v2))
                continue
            in_v2 = name in self._in_v2
            folder = v2 if in_v2 else places[name] / sandbox
            if not in_v2:
                joins[folder] = None
            limit = _limit(name, asked[name], folder, in_v2=in_v2)
            writes += limit.writes
            limits.append(limit)
        return CgroupPlan(
            v2=v2,
            joins=tuple(joins),
            shared=(group.folder,) if group is not None and not group.in_v2 else (),
            writes=tuple(writes),
            limits=tuple(limits),
            data_limit_bytes=(resources.memory_mb or 0) * MIB if group is not None else 0,
        )

    def leave(self, sandbox: str) -> MemoryGroup | None:
        """The sandbox has ended; its memory group, if it was in one, to settle or to remove."""
        self._alone.discard(sandbox)
        return self._groups().leave(sandbox) if self._shared is not None else None

    def leave_batch(self, sandbox: str) -> Path | None:
        """The folder above its memory directory, if that is to be emptied and removed now: after
        those of all who were in it, whose removal was asked for before."""
        return self._batches.leave(sandbox) if self._batches is not None else None

    def _in_group(self) -> bool:
        return self._mode == "group" or (self._mode == "auto" and len(self._alone) >= EACH_UP_TO)

    def _groups(self) -> MemoryGroups:
        if self._shared is None:
            in_v2 = "memory" in self._in_v2
            top = self._top if in_v2 else self._in_v1["memory"]
            self._shared = MemoryGroups(top, self._in_v2, size=self._group_size)
        return self._shared

    def _home(self, group: MemoryGroup | None, *, alone: bool) -> Path:
        """Where the version 2 directory goes: a controller that version 2 hands to a folder, all
        its children have, and memory is the one that costs."""
        if "memory" not in self._in_v2 or (alone and group is None):
            return self._top
        return group.folder if group is not None else self._top / UNLIMITED


def _limit(
    name: str, amount: float, folder: Path, *, in_v2: bool
) -> CpuLimit | MemoryLimit | PidsLimit:
    if name == "memory":
        return MemoryLimit(folder, int(amount), in_v2)
    return PidsLimit(folder, int(amount)) if name == "pids" else CpuLimit(folder, amount, in_v2)


def _directories(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            yield from [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return


def _make_directory(folder: Path) -> None:
    """Again if another owner, the last one below it, takes the parent away at this moment."""
    for _ in range(2):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def _await_empty(folder: Path) -> None:
    deadline = time.monotonic() + NO_PROCESSES_TIMEOUT_S
    while read_key(folder / "cgroup.events", "populated") and time.monotonic() < deadline:
        time.sleep(0.002)


def _take_back(folder: Path) -> None:
    """Page cache charged to what was removed below `folder`, see `Batches`.

    The first try may only have the kernel write out what is dirty; then it is free a moment later.
    """
    for _ in range(TAKE_BACK_TRIES):
        try:
            if read_number(folder / "memory.usage_in_bytes"):
                write_text(folder / "memory.force_empty", "0")
            elif used := read_number(folder / "memory.current"):
                write_text(folder / "memory.reclaim", str(used))
        except OSError:
            pass  # in version 2: not all of it
        if not read_key(folder / "memory.stat", "total_cache"):
            return
        time.sleep(TAKE_BACK_PAUSE_S)


def _remove_directories(folder: Path) -> None:
    """EBUSY until the kernel has let the last process go, which is after its parent reaped it."""
    for child in _directories(folder):
        _remove_directories(child)
    deadline = time.monotonic() + NO_PROCESSES_TIMEOUT_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
        else:
            return
