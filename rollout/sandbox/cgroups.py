"""Control groups of sandboxes: one version 2 directory each, and version 1 where v2 lacks a limit.

The v2 directory is always there, for it starts, freezes and kills a sandbox whatever controllers
the machine gives it. A limit costs a directory only where it was asked for. All of it stands below
`rollout/<owner>/` of each hierarchy, so that a sweep finds it by its owner.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import SandboxError
from rollout.types import Resources

FOLDER = "rollout"
CONTROLLERS = ("cpu", "memory", "pids")
PERIOD_US = 100_000
LEAST_QUOTA_US = 1_000
NO_PROCESSES_TIMEOUT_S = 10.0


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
            _write(top / "cgroup.kill", "1")
            _await_empty(top)
        for point in self.mount_points:
            _remove_directories(point / FOLDER / owner)
            with suppress(OSError):  # other owners are still below it
                (point / FOLDER).rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlan:
    """The directories of one sandbox and what is written into them, in order."""

    v2: Path
    joins: tuple[Path, ...] = ()
    writes: tuple[tuple[Path, str], ...] = ()
    enforced: tuple[str, ...] = ()
    counters: tuple[tuple[str, Path, str], ...] = ()
    """(limit, file, key): the limit was run into if that key of that file is not 0."""

    def freeze(self, frozen: bool) -> None:
        _write(self.v2 / "cgroup.freeze", "1" if frozen else "0")

    @property
    def frozen(self) -> bool:
        return _read_key(self.v2 / "cgroup.events", "frozen") != 0

    def kill(self) -> None:
        """Kill all in it; fine if it is gone."""
        if self.v2.is_dir():
            _write(self.v2 / "cgroup.kill", "1")

    def limits_hit(self) -> tuple[str, ...]:
        return tuple(limit for limit, file, key in self.counters if _read_key(file, key))

    @property
    def directories(self) -> tuple[Path, ...]:
        """What is to be removed after its end."""
        return (self.v2, *self.joins)


class Cgroups:
    """The control groups of one owner."""

    def __init__(self, hierarchies: Hierarchies, owner: str) -> None:
        self._hierarchies = hierarchies
        self._owner = owner
        self._in_v2: frozenset[str] = frozenset()
        self._in_v1: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make the owner's directories and find out which limits hold."""
        top = self._hierarchies.v2 / FOLDER / self._owner
        try:
            _make_directory(top)
        except OSError as exc:
            raise SandboxError(
                f"cannot make the cgroup {top}: {exc.strerror}; in a container, mount "
                "/sys/fs/cgroup writable or run it privileged"
            ) from exc
        self._in_v2 = self._delegate(top)
        for name, point in self._hierarchies.v1.items():
            try:
                _make_directory(point / FOLDER / self._owner)
            except OSError:
                continue
            self._in_v1[name] = point / FOLDER / self._owner

    def _delegate(self, top: Path) -> frozenset[str]:
        """Hand v2's controllers down to `top`; those that some level refuses cannot be used."""
        usable = set((self._hierarchies.v2 / "cgroup.controllers").read_text().split())
        for folder in (self._hierarchies.v2, top.parent, top):
            for name in sorted(usable & set(CONTROLLERS)):
                try:
                    _write(folder / "cgroup.subtree_control", f"+{name}")
                except OSError:
                    usable.discard(name)
        return frozenset(usable & set(CONTROLLERS))

    @property
    def limits(self) -> frozenset[str]:
        return self._in_v2 | frozenset(self._in_v1)

    def adopt(self, pid: int) -> None:
        """Put the launcher below the owner, so that ending the owner ends it too."""
        folder = self._hierarchies.v2 / FOLDER / self._owner / "launcher"
        folder.mkdir(exist_ok=True)
        _write(folder / "cgroup.procs", str(pid))

    def plan(self, sandbox: str, resources: Resources) -> CgroupPlan:
        asked = {
            name: amount
            for name in CONTROLLERS
            if (amount := getattr(resources, name if name != "memory" else "memory_mb")) is not None
        }
        v2 = self._hierarchies.v2 / FOLDER / self._owner / sandbox
        joins: dict[Path, None] = {}
        writes: list[tuple[Path, str]] = []
        counters: list[tuple[str, Path, str]] = []
        enforced: list[str] = []
        for name, amount in asked.items():
            if name in self._in_v2:
                settings, folder = _settings_v2(name, amount), v2
            elif name in self._in_v1:
                folder = self._in_v1[name] / sandbox
                settings = _settings_v1(name, amount, self._in_v1[name])
                joins[folder] = None
            else:
                continue
            enforced.append(name)
            writes += [(folder / file, value) for file, value in settings]
            counters += _counters(name, folder, in_v2=name in self._in_v2)
        return CgroupPlan(
            v2=v2,
            joins=tuple(joins),
            writes=tuple(writes),
            enforced=tuple(enforced),
            counters=tuple(counters),
        )


def _settings_v2(name: str, amount: float) -> list[tuple[str, str]]:
    if name == "memory":
        return [("memory.max", str(int(amount) << 20)), ("memory.swap.max", "0")]
    if name == "pids":
        return [("pids.max", str(int(amount) + 1))]
    return [("cpu.max", f"{_quota_us(amount)} {PERIOD_US}")]


def _settings_v1(name: str, amount: float, parent: Path) -> list[tuple[str, str]]:
    if name == "memory":
        bytes_ = str(int(amount) << 20)
        swap = "memory.memsw.limit_in_bytes"
        settings = [("memory.limit_in_bytes", bytes_)]
        return [*settings, (swap, bytes_)] if (parent / swap).exists() else settings
    if name == "pids":
        # The init is one of them and no part of what was asked for.
        return [("pids.max", str(int(amount) + 1))]
    return [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(_quota_us(amount)))]


def _quota_us(cores: float) -> int:
    return max(LEAST_QUOTA_US, math.ceil(cores * PERIOD_US))


def _counters(name: str, folder: Path, *, in_v2: bool) -> list[tuple[str, Path, str]]:
    if name == "memory":
        file = folder / ("memory.events" if in_v2 else "memory.oom_control")
        return [("memory", file, "oom_kill")]
    if name == "pids":
        return [("pids", folder / "pids.events", "max")]
    return []


def _read_key(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)


def _write(file: Path, text: str) -> None:
    with file.open("w") as handle:
        handle.write(text)


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
    while _read_key(folder / "cgroup.events", "populated") and time.monotonic() < deadline:
        time.sleep(0.002)


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
