"""All checks in the order in which one depends on another."""

from collections.abc import Callable, Iterator, Sequence

from rollout.doctor import cgroups, docker, kernel, limits, software
from rollout.doctor.base import Finding, Level, Wishes, fail

CHECKS: tuple[Callable[[Wishes], Iterator[Finding]], ...] = (
    kernel.check,
    cgroups.check,
    limits.check,
    docker.check,
    software.check,
)


ASKED_FOR = ("store", "Ray cluster")
"""Findings about places named by options; no sandbox needs them."""


def examine(wishes: Wishes) -> Iterator[Finding]:
    """Every finding, one by one as it is made."""
    for check in CHECKS:
        try:
            yield from check(wishes)
        except OSError as exc:
            # A machine may forbid what no check foresaw; the other checks still tell something.
            area = check.__module__.rpartition(".")[2]
            yield fail(area, f"{type(exc).__name__}: {exc}", "report this: no check foresaw it")


def all_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing stands in the way, neither of the engine nor of what was asked for."""
    return all(finding.level is not Level.FAIL for finding in findings)


def engine_can_run(findings: Sequence[Finding]) -> bool:
    """Whether the native engine can run here, whatever else was asked for."""
    return all_well([finding for finding in findings if finding.name not in ASKED_FOR])
