"""The main job: plan, compare with what the dataset holds, do what is missing, tell how it ended.

Exit codes: 0 every planned rollout has a reward, 1 some have none, 2 bad config (raised as
ConfigError), 130 interrupted before the end.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Self

from rollout import build
from rollout.build import Job
from rollout.commands.learn import learn
from rollout.commands.preview import preview
from rollout.compose import Composed
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError
from rollout.executor.base import Executor
from rollout.plan import Standing, stand
from rollout.report.progress import LiveProgress
from rollout.report.render import closing, show, text
from rollout.report.summary import summarise
from rollout.types import count_by

OK, INTERRUPTED = 0, 130


def run(composed: Composed) -> int:
    """Run to the end, or to the first ^C; the exit code."""
    if composed.conf.learner and not composed.conf.dry_run:
        return learn(composed)
    if composed.conf.sampler and not composed.conf.learner:
        raise ConfigError("sampler: only a trainer draws tasks; choose a learner, or leave it off")
    job = build.prepare(composed)
    if job.conf.dry_run:
        show(sys.stdout, text(preview(job)))
        return OK
    if not job.standing.missing and job.state.finished:
        return _already_finished(job)
    if job.conf.detach:
        return _leave_to_cluster(job)
    stopped = execute(job)
    standing = _show_closing(job)
    return INTERRUPTED if stopped and standing.missing else standing.exit_code


def _leave_to_cluster(job: Job) -> int:
    """Let the run go on without us; the exit code says only that it began."""
    from rollout.executor.ray_away import refuse_mortal, submit

    refuse_mortal(job.conf.executor)
    build.record_start(job)
    dashboard = submit(job.plan)
    told = [f"{job.conf.name} runs on the cluster now; nothing here is needed any more"]
    told += [f"dashboard {dashboard}"] if dashboard else []
    told += [f"python -m rollout {verb} {job.plan.run_uri}" for verb in ("attach", "cancel")]
    show(sys.stdout, *map(text, told))
    return OK


def execute(job: Job) -> bool:
    """Do what is missing, with progress and signals; whether it was asked to stop."""
    build.record_start(job)
    return asyncio.run(_drive(job))


def _already_finished(job: Job) -> int:
    standing, name = job.standing, job.conf.name
    show(sys.stdout, text(f"{name} is finished: all {standing.total} rollouts are in its dataset"))
    return _show_closing(job).exit_code


async def _drive(job: Job) -> bool:
    """Watch the executor to its end; whether it was asked to stop before."""
    executor = build.executor_of(job.conf)
    with LiveProgress() as progress, _Wishes(executor, progress) as wishes:
        for note in _opening(job):
            progress.note(note)
        async for look in executor.run(job.plan):
            wishes.listen()
            if executor.dashboard_url:
                progress.note(f"dashboard {executor.dashboard_url} {executor.dashboard_hint}")
            if look.paused:
                progress.note(f"paused: {look.paused}")
            progress.update(look)
    return wishes.told


def _opening(job: Job) -> Iterator[str]:
    standing = job.standing
    yield from job.notes
    yield f"{job.conf.name}: {standing.total} rollouts, {standing.done} there already"


class _Wishes:
    """First ^C drains, second stops, third is Python's own; SIGTERM drains.

    A terminal that goes away changes nothing.
    """

    def __init__(self, executor: Executor, progress: LiveProgress) -> None:
        self.told = False
        """Whether anybody asked for an early end."""
        self._executor = executor
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Callable[[], None]] = {
            signal.SIGINT: self._drain,
            signal.SIGTERM: self._drain,
            signal.SIGHUP: lambda: None,
        }

    def listen(self) -> None:
        """Again and again, since Ray puts a SIGTERM handler that aborts in place of ours."""
        for number, handler in self._handlers.items():
            self._loop.add_signal_handler(number, handler)

    def _drain(self) -> None:
        self.told = True
        self._handlers[signal.SIGINT] = self._stop
        self.listen()
        self._progress.note("draining: what runs is finished and committed; ^C again stops now")
        self._executor.drain()

    def _stop(self) -> None:
        del self._handlers[signal.SIGINT]
        self._loop.remove_signal_handler(signal.SIGINT)
        self._progress.note("stopping now: what is not committed is done at the next start")
        self._executor.stop()

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.remove_signal_handler(number)


def _show_closing(job: Job) -> Standing:
    """Read the dataset back, print what it says, and hold the plan against it."""
    store, uri = job.conf.store, job.plan.run_uri
    with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as dataset:
        standing = stand(job.plan.specs, dataset.state)
        planned = count_by(spec.arm for spec in job.plan.specs)
        summary = summarise(dataset, planned)
    notes = list(_what_next(job, standing))
    show(sys.stdout, closing(summary, uri, notes, endpoint_url=store.endpoint_url))
    return standing


def _what_next(job: Job, standing: Standing) -> Iterator[str]:
    if standing.missing:
        yield f"{standing.missing} rollouts are still to do; the same command line does them"
    if standing.unscored:
        retry = f"python -m rollout retry {job.plan.run_uri}"
        yield f"{standing.unscored} ended without a reward; to make them again: {retry}"
