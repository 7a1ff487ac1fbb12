"""The main job: plan, compare with what the dataset holds, do what is missing, tell how it ended.

Exit codes: 0 every planned rollout has a reward, 1 some have none, 2 bad config (raised as
ConfigError), 130 interrupted before the end.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rollout import build, plan
from rollout.build import Job
from rollout.commands.preview import preview
from rollout.compose import Composed
from rollout.dataset.reader import open_dataset
from rollout.dataset.state import RunState
from rollout.executor.base import Executor
from rollout.report.progress import LiveProgress
from rollout.report.render import closing, show, text
from rollout.report.summary import summarise
from rollout.types import count_by

OK, INTERRUPTED = 0, 130


def run(composed: Composed) -> int:
    """Run to the end, or to the first ^C; the exit code."""
    job = build.prepare(composed)
    if job.conf.dry_run:
        show(sys.stdout, text(preview(job)))
        return OK
    if not job.standing.missing and job.state.finished:
        return _already_finished(job)
    stopped = execute(job)
    state = _show_closing(job)
    standing = plan.stand(job.plan.specs, state)
    return INTERRUPTED if stopped and standing.missing else standing.exit_code


def execute(job: Job) -> bool:
    """Do what is missing, with progress and signals; whether it was asked to stop."""
    build.record_start(job)
    return asyncio.run(_drive(job))


def _already_finished(job: Job) -> int:
    code = job.standing.exit_code
    words = [f"{job.conf.name} is finished: all {job.standing.total} rollouts are in its dataset."]
    if code:
        words.append(
            f"{job.standing.unscored} have no reward; make them again with: "
            f"python -m rollout retry {job.plan.run_uri}"
        )
    show(sys.stdout, text("\n".join(words)))
    _show_closing(job)
    return code


async def _drive(job: Job) -> bool:
    """Watch the executor to its end; whether it was asked to stop before."""
    executor = build.executor_of(job.conf)
    with LiveProgress() as progress, _signals(executor, progress) as asked:
        for note in _opening(job):
            progress.note(note)
        async for look in executor.run(job.plan):
            if executor.dashboard_url:
                progress.note(
                    f"dashboard {executor.dashboard_url} {executor.dashboard_hint}".strip()
                )
            progress.update(look)
    return bool(asked)


def _opening(job: Job) -> Iterator[str]:
    standing = job.standing
    yield from job.notes
    yield f"{job.conf.name}: {standing.total} rollouts, {standing.done} there already"


@contextmanager
def _signals(executor: Executor, progress: LiveProgress) -> Iterator[list[str]]:
    """First ^C drains, second stops; SIGTERM drains; a terminal that goes away changes nothing."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    def interrupt() -> None:
        asked.append("interrupt")
        if len(asked) == 1:
            progress.note("draining: running rollouts finish and are committed; ^C again stops now")
            executor.drain()
        else:
            progress.note("stopping now: what is not committed is done at the next start")
            executor.stop()
            loop.remove_signal_handler(signal.SIGINT)

    def terminate() -> None:
        asked.append("terminate")
        progress.note("draining after SIGTERM: running rollouts finish and are committed")
        executor.drain()

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate, signal.SIGHUP: lambda: None}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield asked
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _show_closing(job: Job) -> RunState:
    store = job.conf.store
    dataset = open_dataset(job.plan.run_uri, endpoint_url=store.endpoint_url, region=store.region)
    planned = count_by(spec.arm for spec in job.plan.specs)
    show(sys.stdout, closing(summarise(dataset, planned), job.plan.run_uri))
    return dataset.state
