"""What a benchmark asks of the machine: how much of its memory is taken, and what stands on it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

KERNEL_PARTS = ("SUnreclaim", "PageTables", "KernelStack", "Percpu", "AnonPages")
SLACK_MB = 300
"""What slabs kept for later and other programs may take meanwhile."""
SPARE_NETWORKS = 16
"""Of other launchers on the machine."""


@dataclass(frozen=True)
class Machine:
    """What must be the same again."""

    memory_mb: float
    descriptors: int
    network_namespaces: int

    @classmethod
    def now(cls) -> "Machine":
        return cls(used_mb(), psutil.Process().num_fds(), network_namespaces())

    def like(self, before: "Machine") -> bool:
        return (
            self.memory_mb < before.memory_mb + SLACK_MB
            and self.descriptors <= before.descriptors
            and self.network_namespaces <= before.network_namespaces + SPARE_NETWORKS
        )


def used_mb() -> float:
    """What the kernel cannot simply drop: its own parts and anonymous memory."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[part].split()[0]) for part in KERNEL_PARTS if part in lines) / 1024


def network_namespaces() -> int:
    """Those that the kernel still has, dead ones included."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.startswith("net_namespace "):
            return int(line.split()[1])
    return 0


def census_of_machine(root_dir: Path) -> object:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.census import census  # the tests' own, which names each thing it finds

    return census(str(root_dir))
