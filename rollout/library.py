"""A run, or one sandbox, as a call: the parts of the command line without terminal and signals."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from rollout import build
from rollout.aio import shielded
from rollout.checks import nearest
from rollout.compose import compose, composed_of
from rollout.config import (
    AUTO,
    BlueprintConf,
    EngineConf,
    ObjectsConf,
    ResourcesConf,
    RunConf,
    limits_of,
    resources_of,
)
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.egress import rules
from rollout.egress.access import egress, logged
from rollout.errors import ConfigError, SandboxError
from rollout.executor.base import Progress
from rollout.executor.choice import Wanted, choose
from rollout.executor.engines import make_engine
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.plan import LIMIT_OF
from rollout.recipes import blueprint_of, usual_limits
from rollout.sandbox.base import Engine, Sandbox
from rollout.sandbox.launching import launch
from rollout.sandbox.made import make_spec
from rollout.tasks.blueprint import overlaid
from rollout.types import Blueprint

SETTINGS = ("env", "workdir", "user", "network", "allowed_hosts", "ready", "sudo")
"""What `sandbox` may say of a Blueprint that is made already, besides its limits."""


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


# ---------------------------------------------------------------- one sandbox


@asynccontextmanager
async def sandbox(
    blueprint: str | Blueprint = "default",
    *,
    engine: str | EngineConf = AUTO,
    config_dir: str | None = None,
    objects: ObjectsConf | None = None,
    **settings: Any,
) -> AsyncIterator[Sandbox]:
    """A computer of its own for as long as the block lasts.

    blueprint: an option of `conf/blueprint`, a YAML file of the same words, a base such as
        `rootfs:/srv/debian`, or a Blueprint. The default one takes minutes when it is made first.
    engine: its kind, or all its settings; it is started here and ended with the block.
    config_dir: a folder with more options.
    objects: where its objects are; unless said, where a run of this folder has them.
    settings: words of `conf/blueprint` in place of the blueprint's own; of a Blueprint that is
        made, `env`, `workdir`, `user`, `network`, `allowed_hosts`, `ready`, `sudo`. Of both `size`,
        and `cpu`, `memory_mb`, `disk_mb`, `pids`.

    ConfigError for what is not known, SandboxError where this machine cannot do it, and where it
    cannot hold a limit that somebody wrote.
    """
    if isinstance(blueprint, str):
        wanted = await asyncio.to_thread(
            partial(blueprint_of, blueprint, config_dir, objects=objects, **settings)
        )
    else:
        wanted = _with_settings(blueprint, settings)
    asked = EngineConf(kind=engine) if isinstance(engine, str) else engine
    limits = sorted(_written_limits(wanted))
    conf = chosen_engine(asked, wanted, limits=limits)
    kept = open_objects(objects or ObjectsConf(), root_dir=conf.root_dir)
    async with running_engine(conf, kept) as running:
        if lacking := sorted(_written_limits(wanted) - running.limits):
            raise SandboxError(
                f"the {running.name} engine cannot hold a limit of {', '.join(lacking)} here; "
                "leave it off, or see `python -m rollout doctor` for what it would take"
            )
        box = await running.create(await make_spec(running, wanted, kept))
        await launch(box, kept)
        async with egress(box, logged):
            yield box


def chosen_engine(
    conf: EngineConf,
    blueprint: Blueprint,
    *,
    limits: Sequence[str] = (),
    features: frozenset[str] = frozenset(),
) -> EngineConf:
    """Of `auto` the engine that can make this blueprint here; SandboxError if none can."""
    wanted = Wanted(blueprints=[("it", blueprint)], limits=limits, features=features)
    try:
        return choose(conf, wanted)[0]
    except ConfigError as exc:
        raise SandboxError(str(exc)) from exc


@asynccontextmanager
async def running_engine(
    conf: EngineConf, objects: ObjectStore | None = None
) -> AsyncIterator[Engine]:
    """An engine of this process alone; all its sandboxes, and `objects`, end with the block."""
    engine = make_engine(conf, "library", objects)
    try:
        await engine.start()
        yield engine
    finally:
        await shielded(engine.close())
        if objects is not None:
            objects.close()


def _with_settings(blueprint: Blueprint, settings: dict[str, Any]) -> Blueprint:
    """Of one that is made: how its processes start, and its limits."""
    known = [*SETTINGS, "size", *LIMIT_OF]
    for name in settings:
        if name not in known:
            hint = nearest(name, known) or f"; there are: {', '.join(known)}"
            raise ConfigError(f"sandbox: {name!r} is no setting of a Blueprint{hint}")
    asked = {name: value for name, value in settings.items() if name in SETTINGS}
    if "env" in asked:
        asked["env"] = tuple(dict(asked["env"]).items())
    asked["allowed_hosts"] = tuple(asked.get("allowed_hosts", blueprint.allowed_hosts))
    network = asked.get("network", blueprint.network)
    if found := list(rules.problems(network, asked["allowed_hosts"])):
        raise ConfigError("\n".join(f"sandbox: {line}" for line in found))
    own = {name: value for name, value in settings.items() if name in LIMIT_OF}
    conf = overlaid(BlueprintConf(), {"size": settings.get("size"), "resources": own})
    limits = limits_of(conf, ResourcesConf(**asdict(blueprint.resources)))
    return replace(blueprint, **asked, resources=resources_of(limits))


def _written_limits(blueprint: Blueprint) -> set[str]:
    """Those that somebody wrote, by the engines' names."""
    return {
        limit
        for name, limit in LIMIT_OF.items()
        if getattr(blueprint.resources, name) not in (None, usual_limits()[name])
    }
