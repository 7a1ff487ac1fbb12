"""`dry_run=true`: what a run would do, before anything is started."""

import math
import os
from collections.abc import Iterator, Sequence

from rollout.build import Job
from rollout.dataset.reader import open_dataset
from rollout.sandbox.steps import describe
from rollout.types import Blueprint, Resources, count_by

GUESS_CORE_S = 0.1
"""Of one rollout whose agent ends at once, when nothing was measured yet."""

SHOWN = 20
HOSTS_SHOWN = 3


def preview(job: Job) -> str:
    """The plan as text."""
    return "\n".join(_lines(job))


def _lines(job: Job) -> Iterator[str]:
    standing, run = job.standing, job.plan
    yield f"run       {run.run_id} at {run.run_uri}"
    yield (
        f"rollouts  {standing.total} = {len(run.arms)} arms × {len(run.tasks)} tasks "
        f"× {job.conf.samples} samples"
    )
    yield f"there     {standing.done} already, {standing.missing} to do"
    yield from _some("arms", _arms(job))
    yield from _some("images", _images(job))
    yield from _some("sandbox", _sandboxes(job))
    yield from _some("launch", _launches(job))
    yield from _some("agents", _agents(job))
    yield f"runs on   engine {run.engine.kind}, executor {run.executor.kind}"
    yield f"in flight up to {_in_flight(job)} rollouts"
    yield f"takes     {_estimate(job)}"
    for note in job.notes:
        yield f"note      {note}"
    yield "nothing was started (dry_run=true)"


def _some(title: str, lines: Sequence[str]) -> Iterator[str]:
    """The first lines under one title, and how many more there are."""
    shown = [*lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"… and {len(lines) - SHOWN} more")
    for number, line in enumerate(shown):
        yield f"{title if not number else '':<9} {line}"


def _arms(job: Job) -> list[str]:
    counts = count_by(spec.arm for spec in job.plan.specs)
    there = job.standing.done_by_arm
    return [f"{arm}: {count} rollouts, {there[arm]} there" for arm, count in counts.items()]


def _images(job: Job) -> list[str]:
    """By base: most tasks have an image of their own, with their own files."""
    blueprints = {each.image_digest: each for each in _blueprints(job)}
    tasks = count_by(_base(each) for each in _blueprints(job))
    images = count_by(_base(each) for each in blueprints.values())
    return [f"{images[base]} on base {base}, for {count} tasks" for base, count in tasks.items()]


def _blueprints(job: Job) -> list[Blueprint]:
    """Of each task, and where arms have another of each arm."""
    variants = (task for _, task in job.plan.variants)
    return [task.blueprint for task in (*job.plan.tasks, *variants)]


def _base(blueprint: Blueprint) -> str:
    return "a Dockerfile" if blueprint.dockerfile else blueprint.base


def _launches(job: Job) -> list[str]:
    """What is done at each launch, by blueprint; nothing where that is nothing."""
    kinds = count_by("; ".join(_launch(each)) for each in _blueprints(job))
    return [f"{kind}: {count} tasks" for kind, count in kinds.items() if kind]


def _launch(blueprint: Blueprint) -> Iterator[str]:
    yield from (describe(step) for step in blueprint.launch)
    if blueprint.ready:
        yield f"ready when `{blueprint.ready}`"


def _agents(job: Job) -> list[str]:
    kinds = {agent: None for blueprint in _blueprints(job) for agent in blueprint.agents}
    return [f"{name} {version} ({source})" for name, version, source in kinds]


def _sandboxes(job: Job) -> list[str]:
    kinds = count_by(
        f"{limits_told(each.resources)}, network {network_told(each)}" for each in _blueprints(job)
    )
    return [f"{kind}: {count} tasks" for kind, count in kinds.items()]


def network_told(blueprint: Blueprint) -> str:
    """What the agent reaches, in words."""
    hosts = ", ".join(blueprint.allowed_hosts[:HOSTS_SHOWN])
    more = len(blueprint.allowed_hosts) - HOSTS_SHOWN
    and_more = f" and {more} more" if more > 0 else ""
    return f"{blueprint.network} ({hosts}{and_more})" if hosts else blueprint.network


def limits_told(resources: Resources) -> str:
    """Those that were asked for, in words."""
    asked = {
        "cpu": resources.cpu,
        "memory MB": resources.memory_mb,
        "disk MB": resources.disk_mb,
        "pids": resources.pids,
    }
    told = [f"{name} {value:g}" for name, value in asked.items() if value is not None]
    return ", ".join(told) or "no limits"


def _in_flight(job: Job) -> int:
    """Of this machine; a cluster has as many times more as it has nodes like it."""
    conf = job.plan.executor
    workers = conf.workers or max(1, math.ceil((os.cpu_count() or 1) / conf.cpus_per_worker))
    return min(max(1, job.standing.missing), workers * conf.episodes_per_worker)


def _estimate(job: Job) -> str:
    if not job.standing.missing:
        return "no time: nothing is missing"
    measured_s = _measured_s(job)
    if measured_s is None:
        guess_s = job.standing.missing * GUESS_CORE_S / (os.cpu_count() or 1)
        return (
            f"about {_spell(guess_s)} and the agents' own time (a guess: no rollout of this run "
            "was measured yet)"
        )
    total_s = job.standing.missing * measured_s / _in_flight(job)
    return f"about {_spell(total_s)} ({measured_s:.2f} s each, as measured in this run)"


def _measured_s(job: Job) -> float | None:
    """Mean seconds of a rollout so far, its time in the queue left out."""
    if not job.state.accepted:
        return None
    store = job.conf.store
    dataset = open_dataset(job.plan.run_uri, endpoint_url=store.endpoint_url, region=store.region)
    rows = dataset.scan(columns=["phases"])["phases"].to_pylist()
    spent_ms = [
        sum(phase["ms"] for phase in phases or () if phase["name"] != "queue") for phases in rows
    ]
    return sum(spent_ms) / len(spent_ms) / 1000 if spent_ms else None


def _spell(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
