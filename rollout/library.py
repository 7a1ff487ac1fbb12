"""A run as a call: the same parts as the command line, without its terminal and its signals."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from rollout import build
from rollout.compose import compose, composed_of
from rollout.config import RunConf
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.executor.base import Progress


def run(
    config: RunConf | Sequence[str],
    *,
    config_dir: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RolloutDataset:
    """Do what is missing of a run, and open its dataset.

    `config`: overrides as on the command line, `["+experiment=quickstart", "samples=2"]`, or a
    `RunConf`. ConfigError when it cannot be run as asked. Ending early, by an exception out of
    `on_progress` or ^C, loses nothing that is committed.
    """
    return asyncio.run(run_async(config, config_dir=config_dir, on_progress=on_progress))


async def run_async(
    config: RunConf | Sequence[str],
    *,
    config_dir: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RolloutDataset:
    """`run` inside an event loop; cancelling it stops the run in order."""
    if isinstance(config, RunConf):
        composed = composed_of(config)
    else:
        composed = compose([config] if isinstance(config, str) else config, config_dir)
    job = await asyncio.to_thread(build.prepare, composed)
    if job.standing.missing or not job.state.finished:
        await asyncio.to_thread(build.record_start, job)
        looks = build.executor_of(job.conf).run(job.plan)
        try:
            async for progress in looks:
                on_progress(progress)
        finally:
            if isinstance(looks, AsyncGenerator):
                await looks.aclose()
    store = job.conf.store
    return await asyncio.to_thread(
        open_dataset, job.plan.run_uri, endpoint_url=store.endpoint_url, region=store.region
    )
