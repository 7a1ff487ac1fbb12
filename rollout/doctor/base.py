"""What a check is given and what it finds."""

from dataclasses import dataclass
from enum import StrEnum

from rollout.config import EngineConf, PoolConf


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warn"
    """Runs, with less than everything, or it will not go as far as it could."""
    FAIL = "fail"
    """The native engine cannot run, or what was asked for by an option does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    level: Level
    seen: str
    change: str = ""
    """What to do about it, as a command where there is one; empty when nothing needs doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the machine is wanted for."""

    root_dir: str = EngineConf.root_dir
    uid_base: int = EngineConf.uid_base
    slots: int = EngineConf.max_slots
    sandboxes: int = PoolConf.max_sandboxes
    """To be alive at once on this machine."""
    store: str = ""
    """Of a dataset; empty: not tried."""
    endpoint_url: str | None = None
    region: str | None = None
    ray_address: str | None = None
    """Of a cluster to look at; empty: only whether Ray could be started."""


def ok(name: str, seen: str) -> Finding:
    return Finding(name=name, level=Level.OK, seen=seen)


def warn(name: str, seen: str, change: str) -> Finding:
    return Finding(name=name, level=Level.WARN, seen=seen, change=change)


def fail(name: str, seen: str, change: str) -> Finding:
    return Finding(name=name, level=Level.FAIL, seen=seen, change=change)
