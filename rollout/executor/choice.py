"""`engine.kind=auto`: which engine makes a run's sandboxes, decided once, where the run is planned.

The native engine where it can make all that is asked of it, for it is faster and needs no daemon;
else Docker. Workers get the one that was chosen, so all rollouts of a run have the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rollout.config import AUTO, EngineConf
from rollout.errors import ConfigError
from rollout.executor.engines import make_engine
from rollout.sandbox.base import Engine
from rollout.sandbox.bases import parse_base
from rollout.types import Blueprint, Task

CANDIDATES = ("native", "docker")
SHOWN = 3
WHOLE = "a whole Dockerfile built"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of an engine."""

    blueprints: Sequence[tuple[str, Blueprint]]
    """Each with who wants it, in words."""
    limits: Sequence[str] = ()
    """Of `cpu memory pids disk`: those that must be held."""
    features: frozenset[str] = frozenset()
    here: bool = True
    """Whether the sandboxes will be made on this machine."""


def blueprints_of(tasks: Iterable[Task]) -> list[tuple[str, Blueprint]]:
    found = []
    for task in tasks:
        found.append((f"task {task.id}", task.blueprint))
        if task.verifier.blueprint is not None:
            found.append((f"the verifier of task {task.id}", task.verifier.blueprint))
    return found


def choose(conf: EngineConf, wanted: Wanted) -> tuple[EngineConf, str]:
    """An engine's config that says which, and why in words; empty where the config says it.

    ConfigError where none can make what is wanted.
    """
    if conf.kind != AUTO:
        return conf, ""
    lacking: dict[str, list[str]] = {}
    for kind in CANDIDATES:
        chosen = replace(conf, kind=kind)
        lacking[kind] = list(_lacks(make_engine(chosen, owner="plan"), wanted))
        if not lacking[kind]:
            return chosen, _why(kind, lacking)
    raise ConfigError(
        "engine.kind=auto: no engine can make what is wanted\n"
        + "\n".join(f"  {kind}: {_clipped(lacks)}" for kind, lacks in lacking.items())
    )


def _why(kind: str, lacking: dict[str, list[str]]) -> str:
    passed_over = [f"{name} cannot: {_clipped(lacks)}" for name, lacks in lacking.items() if lacks]
    why = "; ".join(passed_over) or "it can make all that is asked of it"
    return f"engine {kind} (auto): {why}"


def _lacks(engine: Engine, wanted: Wanted) -> Iterator[str]:
    if wanted.here and engine.unusable:
        yield engine.unusable
        return
    told = set()
    for who, blueprint in wanted.blueprints:
        if (lack := _lack(engine, blueprint)) and lack not in told:
            told.add(lack)
            yield f"{who} wants {lack}"
    if wanted.here:
        for limit in wanted.limits:
            if limit not in engine.limits:
                yield f"it cannot hold a limit of {limit} here"
    for feature in sorted(wanted.features - engine.features):
        yield f"it lacks {feature!r}"


def _lack(engine: Engine, blueprint: Blueprint) -> str:
    if blueprint.dockerfile is not None:
        return "" if "dockerfile" in engine.features else (blueprint.dockerfile.needs or WHOLE)
    kind = parse_base(blueprint.base).kind
    return "" if kind in engine.bases else f"base {blueprint.base!r}"


def _clipped(lines: Sequence[str]) -> str:
    shown = list(lines[:SHOWN])
    if len(lines) > SHOWN:
        shown.append(f"and {len(lines) - SHOWN} more like this")
    return "; ".join(shown)
