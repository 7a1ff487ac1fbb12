"""A run, or one sandbox, as a call: the parts of the command line without terminal and signals."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rollout import build
from rollout.aio import shielded
from rollout.compose import compose, composed_of, conf_dir
from rollout.config import BlueprintConf, EngineConf, ResourcesConf, RunConf, nearest
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.errors import ConfigError, SandboxError
from rollout.executor.base import Progress
from rollout.executor.engines import make_engine
from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.sandbox.bases import parse_base
from rollout.types import Blueprint, BuildStep, Resources

FIXED = ("name", "base", "steps", "resources")
"""Fields of a blueprint that are no setting of `sandbox`."""


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


LIMIT_OF = {"cpu": "cpu", "memory_mb": "memory", "disk_mb": "disk", "pids": "pids"}
"""A setting, and the limit that holds it."""


@asynccontextmanager
async def sandbox(
    blueprint: str | Blueprint = "host",
    *,
    engine: str | EngineConf = "native",
    config_dir: str | None = None,
    **settings: Any,
) -> AsyncIterator[Sandbox]:
    """A computer of its own for as long as the block lasts.

    blueprint: an option of `conf/blueprint`, a base such as `rootfs:/srv/debian`, or a Blueprint.
    engine: its kind, or all its settings; it is started here and ended with the block.
    config_dir: a folder with more options.
    settings: `env`, `workdir`, `user`; `cpu`, `memory_mb`, `disk_mb`, `pids`, in place of the
        blueprint's own.

    ConfigError for what is not known, SandboxError where this machine cannot do it, and where it
    cannot hold a limit that the settings name.
    """
    named = blueprint_of(blueprint, config_dir) if isinstance(blueprint, str) else blueprint
    wanted = _with_settings(named, settings)
    conf = EngineConf(kind=engine) if isinstance(engine, str) else engine
    async with running_engine(conf) as running:
        asked = {LIMIT_OF[name] for name, value in settings.items() if name in LIMIT_OF and value}
        if lacking := sorted(asked - running.limits):
            raise SandboxError(
                f"the {running.name} engine cannot hold a limit of {', '.join(lacking)} here; "
                "leave it off, or see `python -m rollout doctor` for what it would take"
            )
        image = await running.build(wanted)
        yield await running.create(SandboxSpec.for_blueprint(image, wanted))


@asynccontextmanager
async def running_engine(conf: EngineConf) -> AsyncIterator[Engine]:
    """An engine of this process alone; all its sandboxes end with the block."""
    engine = make_engine(conf, owner="library")
    try:
        await engine.start()
        yield engine
    finally:
        await shielded(engine.close())


def blueprint_of(name: str, config_dir: str | None = None) -> Blueprint:
    """The blueprint that an option or a base means, with the limits that `conf/` gives to all."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    options = sorted({p.stem for f in folders for p in (f / "blueprint").glob("*.yaml")})
    if name in options:
        conf = compose([f"blueprint={name}"], config_dir).conf
        return _blueprint(name, conf.blueprint, conf.resources)
    try:
        parse_base(name)
    except ConfigError as exc:
        hint = nearest(name, options) or f"; there are: {', '.join(options)}"
        raise ConfigError(f"blueprint: {name!r} is no option{hint} ({exc})") from exc
    return _blueprint(name, BlueprintConf(base=name, workdir="/"), ResourcesConf())


def _blueprint(name: str, conf: BlueprintConf, limits: ResourcesConf) -> Blueprint:
    wanted = {item.name: getattr(limits, item.name) for item in fields(Resources)}
    return Blueprint(
        name=name,
        base=conf.base,
        steps=(BuildStep(op="workdir", dest=conf.workdir),),
        env=tuple(conf.env.items()),
        resources=Resources(**wanted),
        sudo=conf.sudo,
    )


def _with_settings(blueprint: Blueprint, settings: dict[str, Any]) -> Blueprint:
    own = [item.name for item in fields(Blueprint) if item.name not in FIXED]
    limits = [item.name for item in fields(Resources)]
    for name in settings:
        if name not in (*own, *limits):
            hint = nearest(name, [*own, *limits]) or f"; there are: {', '.join([*own, *limits])}"
            raise ConfigError(f"sandbox: {name!r} is no setting{hint}")
    asked = {name: value for name, value in settings.items() if name in own}
    if "env" in asked:
        asked["env"] = tuple(dict(asked["env"]).items())
    limited = {name: value for name, value in settings.items() if name in limits}
    return replace(blueprint, **asked, resources=replace(blueprint.resources, **limited))
