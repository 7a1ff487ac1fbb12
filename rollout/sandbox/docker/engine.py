"""The Docker engine: sandboxes out of containers of the daemon that answers on this machine.

The daemon makes the namespaces, the root file system and the limits; our own init, mounted into
each container, is the only way in and confines what it starts as on the native engine. What that
does not give: root inside is the kernel's root, with ten capabilities, unless the daemon maps users
(`userns-remap`, or rootless); and the kernel is shared, unless the runtime brings one.
"""

import asyncio
import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rollout.aio import shielded
from rollout.config import EngineConf
from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.base import Image, Objects, SandboxSpec
from rollout.sandbox.connections import Connections
from rollout.sandbox.docker import container
from rollout.sandbox.docker.belongings import SNAPSHOT_NAME, Belongings
from rollout.sandbox.docker.calls import Calls
from rollout.sandbox.docker.daemon import (
    LONG_TIMEOUT_S,
    PING_TIMEOUT_S,
    Daemon,
    DaemonError,
    Facts,
    find_daemon,
)
from rollout.sandbox.docker.handover import Handover, copy_program
from rollout.sandbox.docker.images import BASES, NAME, Images
from rollout.sandbox.docker.left import Diff, changes, diff_of, roots
from rollout.sandbox.docker.limits import Groups
from rollout.sandbox.docker.means import Means
from rollout.sandbox.docker.sandbox import DockerSandbox, InitProcess
from rollout.sandbox.docker.trial import check_runtime, prove
from rollout.sandbox.images import fresh_name
from rollout.sandbox.init.build import binary
from rollout.sandbox.lineage import Lineage, fork
from rollout.sandbox.owner import Owner, remove_tree
from rollout.sandbox.unprivileged import folder_of_user
from rollout.sandbox.watcher import Watcher
from rollout.types import NETWORKS, Blueprint, Changes, Tree, Workspace

FEATURES = frozenset({"pty", "ports", "programs", "users", "dockerfile"})
CREATE_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 30.0
LOOK_S = 1.0
"""How often it is asked whether a container that gives no sign still runs."""
MAX_LAYERS = 100
"""Of one image, from where on a snapshot is one layer: storage drivers take no more than 125."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Made:
    """What one sandbox has of this machine, until it is ended."""

    name: str
    container: str
    """The name of its container."""
    folder: Path


@dataclass(slots=True)
class _Started:
    """What an engine has from its start to its end."""

    owner: Owner
    daemon: Daemon
    calls: Calls
    images: Images
    program: Path
    facts: Facts


class DockerEngine:
    """`start` and all else belong to one event loop."""

    def __init__(
        self, conf: EngineConf, *, owner: str = "", objects: Objects | None = None
    ) -> None:
        self._conf = conf
        self._label = owner or "engine"
        self._objects = objects
        self._root_dir = folder_of_user(conf.root_dir, EngineConf.root_dir)
        self._facts: Facts | None = None
        self._has: _Started | None = None
        self._live: dict[str, DockerSandbox] = {}
        self._connections = Connections()
        self._lineage = Lineage()
        self._diffs: dict[str, Diff] = {}
        """Digest of an image that a sandbox left, to what it wrote."""
        self._watcher = Watcher(
            lambda: list(self._live.values()), reserve_mb=conf.memory_reserve_mb
        )
        self._count = 0

    @property
    def name(self) -> str:
        return NAME

    @property
    def bases(self) -> frozenset[str]:
        return BASES

    @property
    def features(self) -> frozenset[str]:
        return FEATURES

    @property
    def limits(self) -> frozenset[str]:
        """As the daemon says; nothing where none answers."""
        return frozenset() if self.unusable or self._facts is None else self._facts.limits

    @property
    def unusable(self) -> str:
        try:
            self._facts = self._facts or _ask()
            check_runtime(self._conf.runtime, self._facts)
        except SandboxError as exc:
            return str(exc)
        return ""

    # ---------------------------------------------------------------- start and close

    async def start(self) -> None:
        """SandboxError says what is missing and what to change."""
        if self._has is not None:
            return
        calls = Calls()
        try:
            daemon = await calls.run(find_daemon, timeout_s=PING_TIMEOUT_S)
            self._facts = await calls.run(daemon.facts, timeout_s=PING_TIMEOUT_S)
            check_runtime(self._conf.runtime, self._facts)
            owner = await asyncio.to_thread(Owner.claim, self._root_dir, Belongings(daemon))
        except BaseException:
            calls.close()
            raise
        images = Images(
            daemon,
            calls,
            self._root_dir,
            self._objects,
            self,
            owner.folder / "layers",
        )
        self._has = _Started(owner, daemon, calls, images, Path(), self._facts)
        try:
            self._has.program = await asyncio.to_thread(copy_program, binary(), owner.folder)
            runtime = self._conf.runtime
            self._facts = await prove(self, daemon, self._facts, self._root_dir, runtime)
            self._has.facts = self._facts
            self._watcher.start()
        except BaseException:
            await shielded(self.close())
            raise

    async def close(self) -> None:
        """End every sandbox and give up ownership; idempotent."""
        if self._has is None:
            return
        await self._watcher.close()
        await asyncio.gather(*(box.close() for box in list(self._live.values())))
        self._connections.close()
        has, self._has = self._has, None
        await asyncio.to_thread(self._give_up, has)
        has.calls.close()

    def _give_up(self, has: _Started) -> None:
        try:
            Belongings(has.daemon).end_owner(has.owner.id)
        except SandboxError as exc:
            log.warning("%s: what is left is for the next sweep: %s", self._label, exc)
        has.owner.release()
        has.daemon.close()

    # ---------------------------------------------------------------- images

    async def build(self, blueprint: Blueprint) -> Image:
        return await self._started().images.build(blueprint)

    async def discard(self, image: Image) -> None:
        """Drop what only this image needs, if a sandbox left it; built images stay for others."""
        self._diffs.pop(image.digest, None)
        await self._drop(self._lineage.discard(image))

    async def _drop(self, image_ids: list[str]) -> None:
        if self._has is None:
            return
        for image_id in image_ids:
            try:
                await self._has.calls.again(partial(self._has.daemon.remove_image, image_id))
            except DaemonError as exc:
                log.warning("%s: an image is left for the next sweep: %s", self._label, exc)

    async def changes(self, image: Image, below: Image, workspace: Workspace) -> Changes:
        return changes(self._diffs.get(image.digest, ()), workspace)

    async def keep_only(self, image: Image, below: Image, workspace: Workspace) -> Image:
        """By the daemon's own copying, from a container on the one image to one on the other."""
        has = self._started()
        async with AsyncExitStack() as ending:
            theirs = await self.create(SandboxSpec(image=image))
            ending.push_async_callback(theirs.close)
            ours = await self.create(SandboxSpec(image=below))
            ending.push_async_callback(ours.close)
            source, target = (f"rollout-{box.id}" for box in (theirs, ours))
            for path in roots(self._diffs.get(image.digest, ()), workspace):
                await ours.remove(path)
                if (folder := posixpath.dirname(path)) != "/":
                    await ours.put_tree(Tree(), folder)
                copy = partial(has.daemon.copy, source, target, path)
                await has.calls.run(copy, timeout_s=LONG_TIMEOUT_S)
            return await ours.end_as_image()

    async def export_state(self, image: Image, *, limit_bytes: int, timeout_s: float) -> Path:
        raise TreeRefused("the docker engine keeps no end states; engine=native does")

    async def restore_state(self, below: Image, state: Path, *, limit_bytes: int) -> Image:
        raise TreeRefused("the docker engine restores no end states; engine=native does")

    # ---------------------------------------------------------------- sandboxes

    async def create(self, spec: SandboxSpec) -> DockerSandbox:
        """A ready sandbox: its init has answered. What may pass is tried again."""
        if spec.network not in NETWORKS:
            known = ", ".join(NETWORKS)
            raise SandboxError(f"network {spec.network!r}: the docker engine has only {known}")
        return await self.create_for_build(spec, {})

    async def create_for_build(
        self, spec: SandboxSpec, files: Mapping[str, bytes]
    ) -> DockerSandbox:
        """`files` are mounted beside the init; network `host` is possible."""
        calls = self._started().calls
        if spec.image.engine != NAME:
            raise SandboxError(f"image {spec.image.digest} is of engine {spec.image.engine!r}")
        calls.check_well()
        async with calls.making:
            return await calls.repeated(
                lambda: self._create(spec, files), timeout_s=CREATE_TIMEOUT_S
            )

    async def _create(self, spec: SandboxSpec, files: Mapping[str, bytes]) -> DockerSandbox:
        has = self._started()
        self._count += 1
        name = f"{has.owner.id}-{self._count}"
        made = _Made(name, f"rollout-{name}", has.owner.folder / "b" / name)
        self._lineage.stand(name, spec.image)
        handover = Handover(made.folder, has.program, files)
        try:
            await shielded(asyncio.to_thread(handover.open))
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                pid = await self._begin(spec, made, handover)
            return self._adopt(made, spec, pid, str(handover.socket_path))
        except BaseException as exc:
            handover.close()
            await shielded(self._unmake(made))
            if isinstance(exc, TimeoutError):
                error = DaemonError(f"sandbox {name}: not ready in {CREATE_TIMEOUT_S:g} s")
                error.may_pass = True
                raise error from exc
            raise

    async def _begin(self, spec: SandboxSpec, made: _Made, handover: Handover) -> int:
        """The pid of its init, which runs."""
        has = self._started()
        daemon, calls = has.daemon, has.calls
        config = container.config(self._wanted(spec, made, handover))
        creating = asyncio.ensure_future(
            calls.run(lambda: daemon.create(made.container, config), timeout_s=CREATE_TIMEOUT_S)
        )
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            # Else it might come to be after it was removed.
            await shielded(_settled(creating))
            raise
        giving = asyncio.ensure_future(handover.give())
        try:
            await calls.run(lambda: daemon.start(made.container))
            while not (await asyncio.wait({giving}, timeout=LOOK_S))[0]:
                await self._check_runs(made)
            pid = giving.result()
        finally:
            giving.cancel()
        pids = spec.resources.pids
        if pids is not None and pids + 1 < container.START_PIDS:
            await calls.again(lambda: daemon.limit_pids(made.container, pids + 1))
        return pid

    async def _check_runs(self, made: _Made) -> None:
        has = self._started()
        state = (await has.calls.again(lambda: has.daemon.inspect(made.container)))["State"]
        if not state["Running"]:
            raise SandboxError(
                f"its container ended with code {state['ExitCode']} before its init could start"
                f"{': ' if state['Error'] else ''}{state['Error']}"
            )

    def _wanted(self, spec: SandboxSpec, made: _Made, handover: Handover) -> container.Wanted:
        has = self._started()
        image_id = spec.image.layers[-1]
        return container.Wanted(
            name=made.container,
            image_id=image_id,
            spec=spec,
            mounted=handover.mounted,
            labels=container.labels_of(self._label, has.owner.id),
            runtime=self._conf.runtime or "",
            limits_disk="disk" in has.facts.limits,
            absent=has.images.absent(image_id),
        )

    def _adopt(self, made: _Made, spec: SandboxSpec, pid: int, socket_path: str) -> DockerSandbox:
        has = self._started()
        sandbox = DockerSandbox(
            made.name,
            spec,
            init=InitProcess(pid),
            socket_path=socket_path,
            connections=self._connections,
            groups=Groups.of_process(pid),
            limits_disk="disk" in has.facts.limits,
            means=Means(
                has.daemon,
                has.calls,
                made.container,
                keep=partial(self._keep, made),
                end=partial(self._unmake, made),
            ),
            fork=partial(fork, self),
        )
        self._live[made.name] = sandbox
        return sandbox

    async def _unmake(self, made: _Made) -> None:
        """End one sandbox, started or not, and what was kept only for it. Never raises."""
        self._live.pop(made.name, None)
        if self._has is None:
            return
        daemon, calls = self._has.daemon, self._has.calls
        try:
            async with calls.ending:
                await calls.again(
                    partial(daemon.remove, made.container), timeout_s=REMOVE_TIMEOUT_S
                )
        except DaemonError as exc:
            log.warning("%s: a container is left for the next sweep: %s", self._label, exc)
        await asyncio.to_thread(remove_tree, made.folder)
        await self._drop(self._lineage.leave(made.name))

    # ---------------------------------------------------------------- what sandboxes left

    async def _keep(self, made: _Made, below: Image, absent: tuple[str, ...]) -> Image:
        """An image of a container's files, on top of the one it stands on."""
        has = self._started()
        daemon, calls = has.daemon, has.calls
        label = fresh_name("s")
        told = await calls.run(lambda: daemon.diff(made.container), timeout_s=LONG_TIMEOUT_S)
        self._diffs[label] = diff_of(told)
        name = f"{SNAPSHOT_NAME}:{has.owner.id}-{label}"
        labels = container.labels_of(self._label, has.owner.id)
        layers = below.layers
        if await has.images.depth(layers[-1]) >= MAX_LAYERS:
            image_id = await calls.run(
                lambda: daemon.flatten(made.container, name, labels), timeout_s=LONG_TIMEOUT_S
            )
            has.images.note(image_id, absent)
            layers = ()
        else:
            image_id = await self._commit_as(made.container, name, labels, absent)
            has.images.stands_on(image_id, layers[-1])
        image = replace(below, digest=label, layers=(*layers, image_id))
        self._lineage.keep(image)
        return image

    async def commit(self, sandbox: DockerSandbox, name: str) -> str:
        """A built image, which is nobody's."""
        nobody = {container.OWNER: "", container.RUN: ""}
        return await self._commit_as(f"rollout-{sandbox.id}", name, nobody, sandbox.absent())

    async def finds(self, sandbox: DockerSandbox, found: Sequence[bytes]) -> bool:
        has = self._started()
        return await has.calls.run(
            lambda: has.daemon.holds(f"rollout-{sandbox.id}", found), timeout_s=LONG_TIMEOUT_S
        )

    async def _commit_as(
        self, box: str, name: str, labels: Mapping[str, str], absent: tuple[str, ...]
    ) -> str:
        has = self._started()
        told = {**labels, container.ABSENT: json.dumps(absent)}
        image_id = await has.calls.run(
            lambda: has.daemon.commit(box, name, told), timeout_s=LONG_TIMEOUT_S
        )
        has.images.note(image_id, absent)
        return image_id

    def _started(self) -> _Started:
        if self._has is None:
            raise SandboxError("the docker engine was not started, or is closed")
        return self._has


async def _settled(work: "asyncio.Future[str]") -> None:
    await asyncio.wait({work}, timeout=REMOVE_TIMEOUT_S)


def _ask() -> Facts:
    daemon = find_daemon(PING_TIMEOUT_S)
    try:
        return daemon.facts()
    finally:
        daemon.close()
