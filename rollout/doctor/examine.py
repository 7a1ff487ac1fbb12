"""All checks in the order in which one depends on another."""

from collections.abc import Callable, Iterator

from rollout.doctor import cgroups, kernel, limits, software
from rollout.doctor.base import Finding, Level, Wishes, fail

CHECKS: tuple[Callable[[Wishes], Iterator[Finding]], ...] = (
    kernel.check,
    cgroups.check,
    limits.check,
    software.check,
)


def examine(wishes: Wishes) -> Iterator[Finding]:
    """Every finding, one by one as it is made."""
    for check in CHECKS:
        try:
            yield from check(wishes)
        except OSError as exc:
            # A machine may forbid what no check foresaw; the other checks still tell something.
            area = check.__module__.rpartition(".")[2]
            yield fail(area, f"{type(exc).__name__}: {exc}", "report this: no check foresaw it")


def can_run(findings: list[Finding]) -> bool:
    """Whether the native engine can run here and all that was asked for works."""
    return all(finding.level is not Level.FAIL for finding in findings)
