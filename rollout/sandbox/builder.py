"""Images of the native engine: a base, and a layer for each step of a build that changes files.

A layer is named by what it is made of: the one below it, its step, and how that starts. So a
changed last step leaves the layers before it as they are, and two blueprints that begin alike share
them. Steps that only put files make one layer together.
"""

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.aio import shielded
from rollout.errors import BuildError, SandboxError, boundary
from rollout.sandbox.base import Image, Objects, Sandbox, SandboxSpec
from rollout.sandbox.build_log import BuildLog
from rollout.sandbox.build_secrets import Given, find_trace, read_secrets, traces
from rollout.sandbox.images import ImageStore, Layer, building, fresh_name
from rollout.sandbox.layered import Layered
from rollout.sandbox.offers import Offer
from rollout.sandbox.shared_layers import SharedLayers
from rollout.sandbox.steps import (
    Setting,
    apply_step,
    changes_files,
    describe,
    image_settings,
    run_step,
)
from rollout.types import Blueprint, BuildStep, Resources, digest_of

ALONE = ("run", "state")
"""Steps that are a layer each."""
VERSION = 1
"""Of how a layer is made of its steps; another number makes all of them anew."""
BUILD_LIMITS = Resources(pids=4_096)
"""Of a sandbox in which a build runs; those of a blueprint are for what is built."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a base comes to."""

    layers: tuple[str, ...]
    """Lowest first."""
    setting: Setting = Setting()
    portable: bool = True
    """Equal names mean equal files on every machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What one layer is made of, and where it stands."""

    steps: tuple[BuildStep, ...]
    """One of those in ALONE, or steps that put files."""
    wheres: tuple[str, ...]
    """Of each, how its errors begin."""
    setting: Setting
    """Before the first of them."""
    below: tuple[str, ...]
    """Layers, lowest first."""
    key: str

    @property
    def runs(self) -> bool:
        return self.steps[0].op == "run"


class MakeSandbox(Protocol):
    """The engine's way to make a sandbox whose files can outlive it."""

    async def __call__(self, spec: SandboxSpec, *, on_disk: bool) -> Sandbox: ...


class Builder:
    """Builds the images of one engine."""

    def __init__(
        self,
        engine: str,
        store: ImageStore,
        owner_layers: str,
        *,
        make: MakeSandbox,
        discard: Callable[[Image], Coroutine[Any, Any, None]],
        ground: Callable[[Blueprint], Awaitable[Ground]],
        shared: SharedLayers | None,
        objects: Objects | None,
        host_network: bool,
    ) -> None:
        """
        owner_layers: the store's name of a folder of the engine's owner, in which layers are made.
        discard: drops an image that a sandbox left.
        ground: the base of a blueprint, made where it is missing.
        shared: where layers of other machines are found; `None`: nowhere.
        host_network: whether sandboxes of a build may be in the host's network.
        """
        self._engine = engine
        self._store = store
        self._owner_layers = owner_layers
        self._make = make
        self._discard = discard
        self._ground = ground
        self._shared = shared
        self._objects = objects
        self._host_network = host_network

    async def build(self, blueprint: Blueprint) -> Image:
        """The image of `blueprint`: each layer is made once on this machine, whoever asks first."""
        if blueprint.dockerfile is not None:
            raise BuildError(
                f"blueprint {blueprint.name!r}: its Dockerfile needs a Docker daemon: engine=docker"
            )
        ground = await self._ground(blueprint)
        layers = ground.layers
        for stage in _stages(blueprint, ground, self._store):
            name = self._store.built(stage.key)
            if not self._store.has(name):
                shared = self._shared if ground.portable else None
                await self._build_once(blueprint, stage, name, shared)
            layers = (*stage.below, name)
        env, workdir, user = image_settings(blueprint, ground.setting)
        return Image(
            engine=self._engine,
            digest=blueprint.image_digest,
            layers=layers,
            env=env,
            workdir=workdir,
            user=user,
        )

    async def _build_once(
        self, blueprint: Blueprint, stage: _Stage, name: str, shared: SharedLayers | None
    ) -> None:
        async with building(self._store.folder(f"{name}.lock"), blueprint.name):
            if self._store.has(name) or (shared and await shared.fetch(stage.key, name)):
                return
            for step, where in zip(stage.steps, stage.wheres, strict=True):
                log.info("%s: %s", where, describe(step))
            if stage.steps[0].op == "state":
                await self._restore(stage, name)
                return
            try:
                if stage.runs:
                    made = await self._run(blueprint, stage)
                else:
                    made = await self._put(stage)
            except (SandboxError, OSError) as exc:
                raise BuildError(f"{stage.wheres[0]}: {exc}") from exc
            await asyncio.to_thread(self._store.keep, made.layers[-1], name)
            await self._discard(made)
            if shared:
                await shared.share(stage.key, name)

    async def _restore(self, stage: _Stage, name: str) -> None:
        if self._shared is None:
            raise BuildError(f"{stage.wheres[0]}: a kept state needs an object store, and root")
        async with boundary(BuildError, stage.wheres[0]):
            await self._shared.restore(stage.steps[0].object_id, name)

    async def _put(self, stage: _Stage) -> Image:
        async with self._sandbox(stage.below) as sandbox:
            for step, where in zip(stage.steps, stage.wheres, strict=True):
                await apply_step(sandbox, step, where, objects=self._objects)
            return await sandbox.end_as_image()

    # ---------------------------------------------------------------- a command

    async def _run(self, blueprint: Blueprint, stage: _Stage) -> Image:
        (step,), (where,) = stage.steps, stage.wheres
        given = read_secrets(step, dict(blueprint.secrets), where)
        offer = await asyncio.to_thread(self._offer, blueprint, stage, given)
        values = [each.value for each in given]
        async with (
            self._offered(offer, stage) as layers,
            self._sandbox(layers, blueprint.build_network) as sandbox,
        ):
            said = BuildLog(
                self._store.folder(f"logs/{stage.key}.log"), traces([*values, *offer.passwords])
            )
            await run_step(sandbox, step, where, stage.setting, env=offer.env, log=said)
            made = await sandbox.end_as_image()
        try:
            await asyncio.to_thread(self._clean, made, offer, traces(values), where)
        except BaseException:
            await shielded(self._discard(made))
            raise
        return made

    def _offer(self, blueprint: Blueprint, stage: _Stage, given: Sequence[Given]) -> Offer:
        offer = Offer()
        if blueprint.build_network == "host":
            if not self._host_network:
                raise BuildError(f"{stage.wheres[0]}: build_network=host needs root")
            offer.add_network(self._view(stage), blueprint.base)
        offer.add_secrets(given, stage.steps[0].user or stage.setting.user)
        return offer

    def _view(self, stage: _Stage) -> Layered:
        return Layered(self._store.stacks(stage.below).root)

    @asynccontextmanager
    async def _offered(self, offer: Offer, stage: _Stage) -> AsyncIterator[tuple[str, ...]]:
        """The layers below the stage and, on top, what it is offered; gone with the block."""
        name = f"{self._owner_layers}/{fresh_name('o')}"
        folder = self._store.folder(name)

        def write() -> None:
            folder.mkdir(mode=0o700)
            offer.write(folder / "root", self._view(stage), stage.wheres[0])
            self._store.seal(folder, Layer())

        if not offer.files:
            yield stage.below
            return
        try:
            await shielded(asyncio.to_thread(write))
            yield (*stage.below, name)
        finally:
            await shielded(asyncio.to_thread(self._store.drop, name))

    def _clean(self, made: Image, offer: Offer, found: Sequence[bytes], where: str) -> None:
        """Blocks. BuildError if the layer holds what no layer may."""
        name = made.layers[-1]
        folders, _ = self._store.parts(name, self._store.folder(name))
        offer.strip(folders)
        try:
            holder = find_trace(folders.values(), found) if found else ""
        except RecursionError as exc:
            raise BuildError(f"{where}: folders too deep to look for secrets in them") from exc
        if holder:
            raise BuildError(
                f"{where}: {holder!r} of the new layer holds the value of a secret; nothing was "
                "kept of it"
            )

    @asynccontextmanager
    async def _sandbox(
        self, layers: tuple[str, ...], network: str = "none"
    ) -> AsyncIterator[Sandbox]:
        """Programs in it may be setuid, as where Docker builds."""
        image = Image(engine=self._engine, digest=layers[-1], layers=layers)
        spec = SandboxSpec(image=image, resources=BUILD_LIMITS, network=network, sudo=True)
        sandbox = await self._make(spec, on_disk=True)
        try:
            yield sandbox
        finally:
            await shielded(sandbox.close())


@dataclass(frozen=True, slots=True)
class Step:
    step: BuildStep
    number: int
    """Of the blueprint's own step that it is, or is part of."""
    setting: Setting
    """Before it."""


def _stages(blueprint: Blueprint, ground: Ground, store: ImageStore) -> Iterator[_Stage]:
    """The layers of a blueprint, from the lowest, each on those before it."""
    below, key = ground.layers, digest_of([VERSION, *ground.layers])
    count = len(blueprint.steps)
    for together in series(flat(enumerate(blueprint.steps, start=1), ground.setting)):
        steps, setting = tuple(each.step for each in together), together[0].setting
        parts: list[object] = [key, steps]
        if steps[0].op == "run":
            parts += [setting, blueprint.build_network]
        key = digest_of(parts)[:32]
        wheres = (
            f"blueprint {blueprint.name!r}, step {each.number} of {count}" for each in together
        )
        yield _Stage(steps=steps, wheres=tuple(wheres), setting=setting, below=below, key=key)
        below = (*below, store.built(key))


def flat(steps: Iterable[tuple[int, BuildStep]], setting: Setting) -> Iterator[Step]:
    """Those that change files; what is set within a `made` step ends with it."""
    for number, step in steps:
        if step.op == "made":
            yield from flat(((number, each) for each in step.steps), setting)
        elif changes_files(step):
            yield Step(step, number, setting)
        setting = setting.after(step)


def series(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps that make a layer together: those that put files, or one that is alone."""
    files: list[Step] = []
    for each in steps:
        if each.step.op not in ALONE:
            files.append(each)
            continue
        if files:
            yield files
        yield [each]
        files = []
    if files:
        yield files
