"""What a benchmark asks of the machine: how much of its memory is taken, and what stands on it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

KERNEL_PARTS = ("SUnreclaim", "PageTables", "KernelStack", "Percpu", "AnonPages")
SLACK_MB = 300
"""What other programs may take meanwhile."""
SLABS = Path("/sys/kernel/slab")
SLACK_CGROUPS = 300
"""Of other engines on the machine."""
SPARE_NETWORKS = 16
"""Of other launchers on the machine."""


@dataclass(frozen=True)
class Machine:
    """What must be the same again."""

    memory_mb: float
    """In use: without `spare_mb`."""
    spare_mb: float
    """Room in the kernel's slabs that holds nothing now and is kept for what comes next."""
    memory_cgroups: int
    """Those the kernel remembers, removed ones included."""
    descriptors: int
    network_namespaces: int

    @classmethod
    def now(cls) -> "Machine":
        spare_mb = spare_slabs_mb()
        own = psutil.Process().num_fds()
        return cls(used_mb() - spare_mb, spare_mb, memory_cgroups(), own, network_namespaces())

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:,.0f} MB in use and {self.spare_mb:,.0f} MB of empty room in slabs, "
            f"{self.memory_cgroups:,} memory cgroups, {self.descriptors} descriptors, "
            f"{self.network_namespaces} network namespaces"
        )

    def like(self, before: "Machine") -> bool:
        return (
            self.memory_mb < before.memory_mb + SLACK_MB
            and self.memory_cgroups < before.memory_cgroups + SLACK_CGROUPS
            and self.descriptors <= before.descriptors
            and self.network_namespaces <= before.network_namespaces + SPARE_NETWORKS
        )


def used_mb() -> float:
    """What the kernel cannot simply drop: its own parts and anonymous memory."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[part].split()[0]) for part in KERNEL_PARTS if part in lines) / 1024


def spare_slabs_mb() -> float:
    """Objects of unreclaimable slabs that are free; a slab is given back once all in it are."""
    spare = 0
    for cache in SLABS.iterdir() if SLABS.is_dir() else ():
        if cache.is_symlink() or _number(cache / "reclaim_account"):
            continue
        free = _number(cache / "total_objects") - _number(cache / "objects")
        spare += free * _number(cache / "slab_size")
    return spare / 2**20


def _number(file: Path) -> int:
    """The first of the file; 0 if it is gone."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, IndexError):
        return 0


def memory_cgroups() -> int:
    lines = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()]
    return next((int(line[2]) for line in lines if line[0] == "memory"), 0)


def network_namespaces() -> int:
    """Those that the kernel still has, dead ones included."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.startswith("net_namespace "):
            return int(line.split()[1])
    return 0


def census_of_engine(root_dir: Path) -> object:
    """What the machine has of it."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.census import Place, census  # the tests' own, which names each thing it finds

    return census(Place(tmp=root_dir, root_dir=root_dir))
