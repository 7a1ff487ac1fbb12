"""Which limits can be enforced: the engine's own control groups are made, joined and removed."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.doctor.base import Finding, Wishes, fail, ok, warn
from rollout.errors import SandboxError
from rollout.sandbox.cgroups import CgroupPlan, Cgroups, Hierarchies
from rollout.sandbox.controllers import CONTROLLERS
from rollout.sandbox.unprivileged import LIMITS_OF_USER, is_ordinary_user
from rollout.types import Resources

ANSWER_WITHIN_S = 2.0
ALL = Resources(cpu=0.5, memory_mb=64, pids=64)

_ADVICE = (
    "run as root; in a container mount the tree writable: `docker run --privileged "
    "--cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw …`"
)


def check(_: Wishes) -> Iterator[Finding]:
    if is_ordinary_user():
        yield from _limits_of_user()
        return
    try:
        trees = Hierarchies.of_machine()
    except (SandboxError, OSError) as exc:
        yield fail("cgroup v2", str(exc), "as the message says, as root")
        return
    try:
        with _group(trees) as (plan, limits):
            _freeze_and_kill(plan)
            yield ok("cgroup v2", f"{trees.v2}: a group was made, frozen, killed and removed")
            yield from _limits(trees, plan, limits)
    except (SandboxError, OSError) as exc:
        yield fail("cgroup v2", f"{trees.v2}: {exc}", _ADVICE)


def _limits_of_user() -> Iterator[Finding]:
    """Without control groups, which only root can make here."""
    for name in CONTROLLERS:
        if name in LIMITS_OF_USER:
            yield ok(f"{name} limit", "by RLIMIT_NPROC, counted for each sandbox")
        else:
            key = "memory_mb" if name == "memory" else name
            change = f"run as root (`sudo`), or set resources.{key}=null"
            yield warn(
                f"{name} limit", "none for an ordinary user: it needs control groups", change
            )


def _limits(trees: Hierarchies, plan: CgroupPlan, limits: frozenset[str]) -> Iterator[Finding]:
    for name in CONTROLLERS:
        where = f"{trees.v1[name]} (version 1)" if name in trees.v1 else f"{trees.v2} (version 2)"
        if name in plan.enforced:
            yield ok(f"{name} limit", f"a process was put under one in {where}")
        elif name in limits:
            yield warn(f"{name} limit", f"refused by {where}", _ADVICE)
        else:
            key = "memory_mb" if name == "memory" else name
            change = f"hand the {name} controller down to this tree, or set resources.{key}=null"
            yield warn(f"{name} limit", f"{where} does not have the controller", change)


@contextmanager
def _group(trees: Hierarchies) -> Iterator[tuple[CgroupPlan, frozenset[str]]]:
    """A limited group as a sandbox gets it, with one sleeping process; gone afterwards."""
    owner = f"doctor-{os.getpid()}"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        groups = Cgroups(trees, owner)
        groups.prepare()
        plan = groups.plan("probe", ALL)
        for folder in (plan.v2, *plan.joins):
            folder.mkdir()
        for file, value in plan.writes:
            file.write_text(value)
        for folder in (plan.v2, *plan.joins):
            (folder / "cgroup.procs").write_text(str(sleeper.pid))
        yield plan, groups.limits
    finally:
        sleeper.kill()
        sleeper.wait()
        trees.end_owner(owner)


def _freeze_and_kill(plan: CgroupPlan) -> None:
    plan.freeze(True)
    _await(plan.v2, "frozen 1")
    plan.kill()
    plan.freeze(False)
    _await(plan.v2, "populated 0")


def _await(group: Path, event: str) -> None:
    give_up_s = time.monotonic() + ANSWER_WITHIN_S
    while event not in (group / "cgroup.events").read_text():
        if time.monotonic() > give_up_s:
            raise SandboxError(f"cgroup.events does not say `{event}` within {ANSWER_WITHIN_S} s")
        time.sleep(0.005)
