"""What each engine holds back, as it declares it; tests/security holds it to every word.

A wall that is declared must stop every probe that tries it. One that is not declared must let at
least one through: a sandbox is told to be no better and no worse than it is.
"""

from collections.abc import Mapping
from enum import StrEnum


class Wall(StrEnum):
    FILES = "files"
    PROCESSES = "processes"
    NETWORK = "network"
    NAMESPACES = "namespaces"
    UIDS = "uids"
    CAPABILITIES = "capabilities"
    SETUID = "setuid"
    SYSCALLS = "syscalls"
    NESTING = "nesting"
    SETTINGS = "settings"
    INIT = "init"
    INHERITED = "inherited"
    MEMORY = "memory"
    PIDS = "pids"
    CPU = "cpu"
    DISK = "disk"
    OUTPUT = "output"
    DEADLINES = "deadlines"
    LEFTOVERS = "leftovers"


TRIES: Mapping[Wall, str] = {
    Wall.FILES: "files, sockets and devices of the host",
    Wall.PROCESSES: "processes of the host and of neighbours",
    Wall.NETWORK: "ports of the host, of Ray and of neighbours; metadata addresses; any way out",
    Wall.NAMESPACES: "queues, names and namespaces of the host",
    Wall.UIDS: "users of the host",
    Wall.CAPABILITIES: "capabilities one by one, higher priority",
    Wall.SETUID: "more rights by a setuid program",
    Wall.SYSCALLS: "system calls one by one",
    Wall.NESTING: "namespaces and mounts within",
    Wall.SETTINGS: "settings and memory of the machine in /proc and /sys",
    Wall.INIT: "the init: its files, memory, descriptors",
    Wall.INHERITED: "variables and descriptors of the host",
    Wall.MEMORY: "memory hogs",
    Wall.PIDS: "bombs of processes and threads",
    Wall.CPU: "cpu hogs",
    Wall.DISK: "filling the disk, its names, /dev/shm",
    Wall.OUTPUT: "floods of output, of terminals, of logs",
    Wall.DEADLINES: "outliving a deadline",
    Wall.LEFTOVERS: "being found after release",
}
"""What is tried against each, in words for people."""

_ALL = frozenset(Wall)
_LIMITS_OF_ROOT = frozenset({Wall.MEMORY, Wall.CPU})

WALLS: Mapping[str, frozenset[Wall]] = {
    "native": _ALL,
    "native, sudo": _ALL - {Wall.SETUID},
    "native, ordinary user": _ALL - _LIMITS_OF_ROOT - {Wall.UIDS},
    "docker": _ALL - {Wall.UIDS, Wall.DISK},
}
"""By engine and way to run it, on a machine that has all that `doctor` looks for. For `docker`, as
its daemon is when it is installed, with one user for all and on overlay2 over ext4: `userns-remap`
and xfs with quotas hold more. `memory` runs no programs of a machine: it has nothing to wall in,
and holds nothing back."""
