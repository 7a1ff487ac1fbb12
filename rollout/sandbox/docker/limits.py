"""The limits of one container, read from the control groups that its daemon made for it."""

from dataclasses import dataclass
from pathlib import Path

from rollout.sandbox.controllers import (
    CONTROLLERS,
    CpuLimit,
    Limit,
    MemoryLimit,
    PidsLimit,
    held_in,
    read_text,
)
from rollout.types import Resources

_OF_V2 = {"cpu": "cpu.max", "memory": "memory.max", "pids": "pids.max"}


@dataclass(frozen=True, slots=True)
class Groups:
    """Where the kernel counts for one container: controller to directory, and whether in v2."""

    folders: dict[str, tuple[Path, bool]]

    @classmethod
    def of_process(cls, pid: int, mounts: Path = Path("/proc/self/mounts")) -> "Groups":
        """Empty where this process cannot see them. Blocks for microseconds."""
        points = _mount_points(mounts)
        found: dict[str, tuple[Path, bool]] = {}
        for line in read_text(f"/proc/{pid}/cgroup").splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(",") if names else CONTROLLERS:
                if name not in CONTROLLERS or (not names and name in found):
                    continue
                point = points.get(name if names else "")
                folder = point / path.lstrip("/") if point else None
                if folder and (folder / _OF_V2[name] if not names else folder).exists():
                    found[name] = (folder, not names)
        return cls(found)

    def limits(self, resources: Resources) -> tuple[Limit, ...]:
        """Those that were asked for and are counted."""
        found: list[Limit] = []
        if resources.cpu is not None and "cpu" in self.folders:
            folder, in_v2 = self.folders["cpu"]
            found.append(CpuLimit(folder, resources.cpu, in_v2))
        if resources.memory_mb is not None and "memory" in self.folders:
            folder, in_v2 = self.folders["memory"]
            found.append(MemoryLimit(folder, resources.memory_mb, in_v2))
        if resources.pids is not None and "pids" in self.folders:
            found.append(PidsLimit(self.folders["pids"][0], resources.pids))
        return tuple(found)

    def held_bytes(self) -> int:
        """Memory that would be free without it."""
        if "memory" not in self.folders:
            return 0
        folder, in_v2 = self.folders["memory"]
        return held_in(folder, in_v2=in_v2)


def _mount_points(mounts: Path) -> dict[str, Path]:
    """Controller to mount point of version 1; version 2 is the one without a name."""
    points: dict[str, Path] = {}
    for line in mounts.read_text().splitlines():
        _, point, kind, options = line.split(" ")[:4]
        if kind == "cgroup2":
            points.setdefault("", Path(point))
        elif kind == "cgroup":
            for name in set(options.split(",")) & set(CONTROLLERS):
                points.setdefault(name, Path(point))
    return points
