"""The embedded engine: sandboxes out of the kernel's own parts, no daemon, no image registry.

What it holds back: files, processes, networks and users of the host and of other sandboxes, by
namespaces and a range of uids for each; privileges, by capabilities, no_new_privs and a list of
system calls; use of memory, processes and cpu, by control groups. What it does not: the kernel is
shared, so a flaw of the kernel is a way out. Code meant to attack kernels belongs on machines of
its own.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rollout.aio import shielded
from rollout.checks import CHOICES
from rollout.config import EngineConf
from rollout.errors import BuildError, ConfigError, SandboxError, TreeRefused
from rollout.sandbox.base import Image, Objects, SandboxSpec
from rollout.sandbox.bases import HOST, IMAGE, KINDS, OCI, parse_base
from rollout.sandbox.builder import Builder, Ground
from rollout.sandbox.cgroups import CgroupPlan, Cgroups, Hierarchies, limits_in_sight
from rollout.sandbox.chains import Chains
from rollout.sandbox.clearer import Clearer
from rollout.sandbox.connections import Connections
from rollout.sandbox.export import export_layer
from rollout.sandbox.flatten import root_of
from rollout.sandbox.images import (
    ImageStore,
    Layer,
    Stacks,
    fresh_name,
    link_upper,
    take_upper,
)
from rollout.sandbox.launcher import Launched, Launcher
from rollout.sandbox.lineage import Lineage, fork
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.oci_layers import OciLayers
from rollout.sandbox.owner import Owner, Slots, remove_tree
from rollout.sandbox.prune import Part, changes, parts_of, prune
from rollout.sandbox.restore import restore_layer
from rollout.sandbox.rooms import Recipe, Room, Rooms
from rollout.sandbox.rootfs import BaseLayers
from rollout.sandbox.scratch import Scratch, Scratches
from rollout.sandbox.shared_layers import SharedLayers
from rollout.sandbox.unprivileged import (
    LIMITS_OF_USER,
    NoCgroups,
    NoHierarchies,
    OneId,
    folder_of_user,
    is_ordinary_user,
    may_make_namespaces,
)
from rollout.sandbox.volume import MOUNTED_AT, Volume
from rollout.sandbox.watcher import Watcher
from rollout.types import NETWORKS, Blueprint, Changes, Workspace

NAME = "native"
FEATURES = frozenset({"pty", "ports", "programs", "users", "states"})
FEATURES_OF_USER = FEATURES - {"users", "states"}
LEAST_KERNEL = (5, 19)
"""Overlays of id-mapped layers."""
NEEDS = (
    "real root, overlayfs, and engine.root_dir and /usr on a file system with id-mapped mounts; "
    "in a container, run it privileged with a volume as engine.root_dir"
)
NEEDS_OF_USER = (
    "user namespaces for ordinary users (kernel.apparmor_restrict_unprivileged_userns=0 on "
    "Ubuntu), a /proc that nothing covers, and engine.root_dir on a file system with user xattrs; "
    "or run it as root"
)
CREATE_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 60.0
TIDY_AFTER_S = 0.002
RESTART_AFTER_S = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What one sandbox has of this machine, until it is ended."""

    name: str
    uid: int
    plan: CgroupPlan
    launcher: Launcher
    scratch: Scratch
    has_usr: bool
    """Its /usr is an overlay of its own."""
    on_disk: bool
    """What is kept of it must outlive the engine."""
    room: Room | None
    """Ordered ahead, and with luck made."""


class NativeEngine:
    """Drives one launcher. `start` and all else belong to one event loop."""

    def __init__(
        self, conf: EngineConf, *, owner: str = "", objects: Objects | None = None
    ) -> None:
        self._conf = conf
        self._objects = objects
        self._label = owner or "engine"
        self._ordinary = is_ordinary_user()
        self._root_dir = folder_of_user(conf.root_dir, EngineConf.root_dir)
        self._store = ImageStore(self._root_dir)
        self._slots = OneId() if self._ordinary else Slots(conf.uid_base, conf.max_slots)
        self._owner: Owner | None = None
        self._folder_fd = -1
        self._hierarchies: Hierarchies | None = None
        self._cgroups: Cgroups | None = None
        self._launcher: Launcher | None = None
        self._clearer: Clearer | None = None
        self._launching = asyncio.Lock()
        self._scratches = Scratches(conf, self._root_dir, self._label, self._lose_volume)
        self._live: dict[str, NativeSandbox] = {}
        self._connections = Connections()
        self._ending: set[asyncio.Task[None]] = set()
        self._left: list[tuple[_Made, tuple[Path, ...]]] = []
        """Sandboxes that have ended, and their control groups: to be removed."""
        self._watcher = Watcher(
            lambda: list(self._live.values()), reserve_mb=conf.memory_reserve_mb
        )
        self._rooms = Rooms(self._slots, self._clear_room)
        self._lineage = Lineage()
        self._chains = Chains(self._flatten)
        self._base = ""
        self._bases: BaseLayers | None = None
        self._images: OciLayers | None = None
        self._builder: Builder | None = None
        self._count = 0

    @property
    def name(self) -> str:
        return NAME

    @property
    def bases(self) -> frozenset[str]:
        return frozenset({HOST}) if self._ordinary else frozenset(KINDS)

    @property
    def limits(self) -> frozenset[str]:
        if self._ordinary:
            held = LIMITS_OF_USER
        else:
            held = self._cgroups.limits if self._cgroups else limits_in_sight()
        return held | {"disk"} if self._scratches.limited else held

    @property
    def unusable(self) -> str:
        try:
            _check_machine(self._conf, self._root_dir)
            if not self._ordinary:
                Hierarchies.of_machine()
        except (OSError, SandboxError) as exc:
            return str(exc)
        if not may_make_namespaces():
            return f"it needs {NEEDS_OF_USER if self._ordinary else NEEDS}"
        return ""

    @property
    def features(self) -> frozenset[str]:
        return FEATURES_OF_USER if self._ordinary else FEATURES

    # ---------------------------------------------------------------- start and close

    async def start(self) -> None:
        """SandboxError says what this machine lacks and what to change."""
        if self._owner is not None:
            return
        _check_machine(self._conf, self._root_dir)
        if self._ordinary:
            self._hierarchies = NoHierarchies()
        else:
            self._hierarchies = await asyncio.to_thread(Hierarchies.of_machine)
        self._owner = await asyncio.to_thread(Owner.claim, self._root_dir, self._hierarchies)
        try:
            self._folder_fd = os.open(self._owner.folder, os.O_PATH | os.O_DIRECTORY)
            self._cgroups = self._own_cgroups(self._hierarchies, self._owner)
            await asyncio.to_thread(self._cgroups.prepare)
            layers = self._owner.folder / "layers"
            self._base = await asyncio.to_thread(self._store.host_base, layers)
            self._bases = BaseLayers(self._store, layers, self._base)
            self._images = OciLayers(self._store, layers, self._bases)
            self._builder = self._own_builder(self._owner, layers)
            await self._probe()
            self._watcher.start()
        except BaseException:
            await shielded(self.close())
            raise

    def _own_cgroups(self, hierarchies: Hierarchies, owner: Owner) -> Cgroups:
        if self._ordinary:
            return NoCgroups(lambda: self._launcher)
        return Cgroups(
            hierarchies,
            owner.id,
            memory=self._conf.memory_cgroups,
            group_size=self._conf.memory_group_size,
        )

    async def _probe(self) -> None:
        """One sandbox at once, so that a machine that cannot is known before any work starts."""
        try:
            sandbox = await self.create(SandboxSpec(image=_bare_image(self._base)))
        except SandboxError as exc:
            needs = NEEDS_OF_USER if self._ordinary else NEEDS
            raise SandboxError(
                f"this machine cannot make sandboxes of the native engine: {exc}. It needs {needs}"
            ) from exc
        await sandbox.close()

    async def close(self) -> None:
        """End every sandbox and give up ownership; idempotent."""
        if self._owner is None:
            return
        await self._watcher.close()
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._live.values())))
        self._connections.close()
        if self._launcher is not None:
            await self._launcher.close()
            self._launcher = None
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._tidy()
        if self._clearer is not None:
            clearer, self._clearer = self._clearer, None
            await clearer.close(CLOSE_TIMEOUT_S)
        await asyncio.to_thread(self._give_up)

    def _give_up(self) -> None:
        if self._hierarchies is not None and self._owner is not None:
            self._hierarchies.end_owner(self._owner.id)
            self._owner.release()
        self._slots.close()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
        self._folder_fd = -1
        self._owner = None

    # ---------------------------------------------------------------- images

    async def build(self, blueprint: Blueprint) -> Image:
        self._started()
        assert self._builder is not None
        return await self._builder.build(blueprint)

    def _own_builder(self, owner: Owner, layers: Path) -> Builder:
        shared: SharedLayers | None = None
        if self._objects is not None and not self._ordinary:
            shared = SharedLayers(self._objects, self._store, layers, self._conf.uid_base)
        return Builder(
            NAME,
            self._store,
            f"owners/{owner.id}/layers",
            make=self._create,
            discard=self.discard,
            ground=self._ground,
            shared=shared,
            objects=self._objects,
            host_network=not self._ordinary,
        )

    async def _ground(self, blueprint: Blueprint) -> Ground:
        """What all else stands on; immediate where it is there and has a fingerprint."""
        try:
            base = parse_base(blueprint.base)
        except ConfigError as exc:
            raise BuildError(f"blueprint {blueprint.name!r}: {exc}") from exc
        if base.kind not in self.bases:
            raise BuildError(
                f"blueprint {blueprint.name!r}: base {blueprint.base!r} needs root: its files have "
                f"owners; an ordinary user has {HOST!r}"
            )
        if base.kind == HOST:
            return Ground(layers=(self._base,), portable=False)
        assert self._bases is not None
        assert self._images is not None
        if base.kind in (OCI, IMAGE):
            return await self._images.ground(base, blueprint.name)
        return Ground(layers=(await self._bases.layer(base, blueprint.name),))

    async def discard(self, image: Image) -> None:
        """Drop what only this image needs, if a sandbox left it; built images stay for others."""
        await self._drop(self._lineage.discard(image))

    async def _drop(self, layers: Iterable[str]) -> None:
        for layer in layers:
            if layer.startswith(self._volume_prefix):
                self._store.forget(layer)
                await self._remove_subvolume(layer.removeprefix(self._volume_prefix))
            else:
                await asyncio.to_thread(self._store.drop, layer)

    # ---------------------------------------------------------------- what a sandbox wrote

    async def changes(self, image: Image, below: Image, workspace: Workspace) -> Changes:
        parts = self._parts_of(image.layers, image.layers[-1])
        return await asyncio.to_thread(changes, parts, workspace)

    async def keep_only(self, image: Image, below: Image, workspace: Workspace) -> Image:
        *chain, layer = image.layers
        label = fresh_name("s")
        copy = await self._copy_layer(layer, label)
        made = replace(image, digest=label, layers=(*chain, copy))
        self._lineage.keep(made)
        try:
            parts, aside = self._parts_of(made.layers, copy), self._place(copy) / "aside"
            uid_base = self._store.layer(copy).uid_base
            await shielded(asyncio.to_thread(prune, parts, uid_base, workspace, aside))
        except BaseException as exc:
            await shielded(self.discard(made))
            if isinstance(exc, OSError):
                raise SandboxError(f"cannot leave out what is no work: {exc}") from exc
            raise
        return made

    def _parts_of(self, chain: tuple[str, ...], layer: str) -> tuple[Part, ...]:
        """The folders of the topmost layer of a chain, and what they stand on."""
        folders, _ = self._store.parts(layer, self._place(layer))
        if "root" not in folders:
            raise SandboxError(f"layer {layer} is gone")
        stacks = self._store.stacks_here(chain[:-1])
        return parts_of(folders, stacks.root, stacks.usr)

    async def _copy_layer(self, layer: str, label: str) -> str:
        """A copy that may be changed, but for the content of its files."""
        place, about = self._place(layer), self._store.layer(layer)
        if layer.startswith(self._volume_prefix) and self._scratches.volume is not None:
            volume, name = self._scratches.volume, f"{self._volume_prefix}{label}"
            old = layer.removeprefix(self._volume_prefix)
            await shielded(asyncio.to_thread(volume.snapshot, old, label, read_only=False))
            self._store.adopt(name, about, volume.path(label))
            return name
        owner, _ = self._started()
        name = f"owners/{owner.id}/layers/{label}"
        folder = self._store.folder(name)
        folder.mkdir(mode=0o700)
        try:
            for part, upper in self._store.parts(layer, place)[0].items():
                await link_upper(upper, folder / part)
            self._store.seal(folder, about)
        except BaseException:
            await shielded(asyncio.to_thread(remove_tree, folder))
            raise
        return name

    # ---------------------------------------------------------------- kept end states

    async def export_state(self, image: Image, *, limit_bytes: int, timeout_s: float) -> Path:
        owner = self._keeper()
        folders, uid_base = self._store.parts(image.layers[-1], self._place(image.layers[-1]))
        target = owner.folder / f"{fresh_name('k')}.tar.gz"
        await export_layer(folders, uid_base, target, limit_bytes=limit_bytes, timeout_s=timeout_s)
        return target

    async def restore_state(self, below: Image, state: Path, *, limit_bytes: int) -> Image:
        owner = self._keeper()
        label = fresh_name("s")
        name = f"owners/{owner.id}/layers/{label}"
        folder, uid_base = self._store.folder(name), self._conf.uid_base
        folder.mkdir(mode=0o700)
        try:
            await shielded(
                asyncio.to_thread(restore_layer, state, folder, uid_base, limit_bytes=limit_bytes)
            )
            self._store.seal(folder, Layer(uid_base=uid_base))
        except BaseException:
            await shielded(asyncio.to_thread(remove_tree, folder))
            raise
        image = replace(below, digest=label, layers=(*below.layers, name))
        self._lineage.keep(image)
        return image

    def _place(self, layer: str) -> Path:
        """Where the host finds a layer: those on the volume are not where sandboxes see them."""
        if not layer.startswith(self._volume_prefix):
            return self._store.folder(layer)
        if self._scratches.volume is None:
            raise SandboxError(f"layer {layer} was lost with its volume")
        return self._scratches.volume.path(layer.removeprefix(self._volume_prefix))

    def _keeper(self) -> Owner:
        if self._ordinary:
            raise TreeRefused("end states are kept and restored by root alone")
        return self._started()[0]

    # ---------------------------------------------------------------- sandboxes

    async def create(self, spec: SandboxSpec) -> NativeSandbox:
        if spec.network not in NETWORKS:
            known = ", ".join(NETWORKS)
            raise SandboxError(f"network {spec.network!r}: the native engine has only {known}")
        return await self._create(spec)

    async def _create(self, spec: SandboxSpec, *, on_disk: bool = False) -> NativeSandbox:
        """on_disk: of a build, whose layer outlives the engine, and which may be in the host's
        network."""
        owner, cgroups = self._started()
        if spec.image.engine != NAME:
            raise SandboxError(f"image {spec.image.digest} is of engine {spec.image.engine!r}")
        launcher = await self._running_launcher()
        self._count += 1
        name = f"{owner.id}-{self._count}"
        scratch = await self._scratches.choose(spec, name, owner.folder, launcher)
        layers = await self._chains.short(spec.image.layers)
        stacks = self._store.stacks(layers)
        recipe = self._recipe(layers, scratch) if spec.network != "host" else None
        room = self._rooms.take(recipe, launcher) if recipe is not None else None
        made = _Made(
            name=name,
            uid=room.uid if room is not None else self._rooms.take_uid(stacks.top_uid),
            plan=cgroups.plan(name, spec.resources),
            launcher=launcher,
            scratch=scratch,
            has_usr=bool(stacks.usr),
            on_disk=on_disk,
            room=room,
        )
        try:
            self._lineage.stand(name, spec.image)
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                launched = await launcher.create(name, self._fields(spec, stacks, made))
            if recipe is not None:
                order = partial(self._rooms.replenish, recipe, _room_fields(stacks, scratch))
                asyncio.get_running_loop().call_soon(order)  # whoever waits for this one goes first
            return self._adopt(made, launched, spec)
        except BaseException as exc:
            await shielded(self._unmake(made))
            if isinstance(exc, TimeoutError):
                raise SandboxError(f"sandbox {name}: not ready in {CREATE_TIMEOUT_S:g} s") from exc
            raise

    def _fields(self, spec: SandboxSpec, stacks: Stacks, made: "_Made") -> list[tuple[str, str]]:
        """The request as init/request.c reads it."""
        return [
            ("uids", str(made.uid)),
            *_room_fields(stacks, made.scratch),
            *((("room", made.room.name),) if made.room is not None else ()),
            *(() if self._ordinary else (("cgroup", str(made.plan.v2)),)),
            *(("join", str(path)) for path in (*made.plan.joins, *made.plan.shared)),
            *(("write", f"{path}={value}") for path, value in made.plan.writes),
            ("data", str(made.plan.data_limit_bytes)),
            ("processes", str(made.plan.process_limit)),
            ("sudo", "1" if spec.sudo else "0"),
            *((("network", "host"),) if spec.network == "host" else ()),
        ]

    def _recipe(self, layers: tuple[str, ...], scratch: Scratch) -> Recipe | None:
        """Of rooms that would do for others like it; None if there will be none."""
        if self._ordinary or scratch.tmpfs_bytes or self._lineage.made_by_sandboxes(layers):
            return None
        if scratch.volume is None:
            return Recipe(layers)
        return Recipe(layers, scratch.limit_bytes or 0, str(scratch.volume.root))

    def _clear_room(self, name: str) -> None:
        """A room's folder lies among those made ahead until somebody moves in."""
        if self._owner is None or self._clearer is None:
            return  # all of it goes with the owner
        volume = self._scratches.volume
        subvolumes = () if volume is None else (volume.path(name),)
        self._clearer.clear((), [self._owner.folder / "spare" / name], subvolumes)

    def _adopt(self, made: "_Made", launched: Launched, spec: SandboxSpec) -> NativeSandbox:
        def end() -> Coroutine[Any, Any, None]:
            self._live.pop(made.name, None)
            made.launcher.ask_to_end(made.name)
            return self._unmake(made)

        sandbox = NativeSandbox(
            made.name,
            spec,
            uid=made.uid,
            plan=made.plan,
            launched=launched,
            socket_path=f"/proc/self/fd/{self._folder_fd}/b/{made.name}/c",
            connections=self._connections,
            scratch=made.scratch.source(launched),
            disk=made.scratch.disk(launched),
            kill=lambda: made.launcher.kill(made.name, unmount=True),
            end=end,
            keep_layer=partial(self._keep_layer, made),
            fork=partial(fork, self),
        )
        self._live[made.name] = sandbox
        return sandbox

    async def _unmake(self, made: "_Made") -> None:
        """End one sandbox, and what was kept only for it."""
        await self._end(made)
        await self._drop(self._lineage.leave(made.name))

    async def _end(self, made: "_Made") -> None:
        """Kill one sandbox, and have all removed that was made for it, started or not."""
        with suppress(SandboxError, TimeoutError):
            await made.launcher.kill(made.name)
            if made.scratch.tmpfs_bytes:
                made.launcher.forget(made.name)
        if not made.launcher.alive:
            # They die with their launcher; this makes sure before the uids are used again.
            await asyncio.to_thread(made.plan.kill)
        self._slots.give(made.uid)
        directories = made.plan.directories
        if group := self._cgroups.leave(made.name) if self._cgroups else None:
            if not group.members:
                directories = (*directories, group.folder)
            await asyncio.to_thread(group.settle)
        # Not now: whoever waits for its end goes first, and several are asked for at once.
        self._left.append((made, directories))
        if len(self._left) == 1:
            asyncio.get_running_loop().call_later(TIDY_AFTER_S, self._tidy_soon)
        if self._clearer is not None:
            await self._clearer.keep_up()

    def _tidy_soon(self) -> None:
        if self._owner is not None:
            tidying = asyncio.ensure_future(self._tidy())
            self._ending.add(tidying)
            tidying.add_done_callback(self._ending.discard)

    async def _tidy(self) -> None:
        """Have all removed that was made for sandboxes which have ended."""
        left, self._left = self._left, []
        if not left and (self._clearer is None or not self._clearer.is_behind):
            return
        try:
            clearer = await self._running_clearer()
        except SandboxError as exc:
            log.warning("left for the next sweep: %s", exc)
            return
        for made, directories in left:
            batch = self._cgroups.leave_batch(made.name) if self._cgroups else None
            trees, subvolumes = [made.scratch.folder], made.scratch.subvolumes
            clearer.clear(directories, trees, subvolumes, batch=batch)

    def _clearer_ended(self) -> None:
        """What it had not done is asked of another, a moment later: it may die of that again."""
        if self._clearer is not None:
            asyncio.get_running_loop().call_later(RESTART_AFTER_S, self._tidy_soon)

    async def _running_clearer(self) -> Clearer:
        """Started at the first need, and again where it has died."""
        owner, cgroups = self._started()
        async with self._launching:
            if self._clearer is None:
                self._clearer = Clearer(owner.folder, self._clearer_ended)
            if not self._clearer.alive:
                await self._clearer.start()
                cgroups.adopt(self._clearer.pid)
        return self._clearer

    async def _running_launcher(self) -> Launcher:
        """The launcher, started anew where it has died: its sandboxes are lost, not the engine."""
        owner, cgroups = self._started()
        assert self._hierarchies is not None
        if self._launcher is not None and self._launcher.alive:
            return self._launcher
        async with self._launching:
            if self._launcher is not None and self._launcher.alive:
                return self._launcher
            if self._launcher is not None:
                log.warning("%s: the launcher has died and is started again", self._label)
                await self._launcher.close()
                self._store.forget(self._volume_prefix)
            keep = (Path("/usr"), self._root_dir, *self._hierarchies.mount_points)
            launcher = Launcher(owner.folder, keep, self._rooms.dropped)
            await launcher.start()
            cgroups.adopt(launcher.pid)
            self._launcher = launcher
            return launcher

    async def _flatten(self, chain: tuple[str, ...]) -> str:
        """One layer that on the lowest of `chain` shows what all of it does."""
        owner, _ = self._started()
        name = f"owners/{owner.id}/layers/{fresh_name('f')}"
        sandbox = await self.create(SandboxSpec(image=Image(engine=NAME, digest="", layers=chain)))
        try:
            with root_of(sandbox.init_pid) as view:
                await asyncio.to_thread(self._store.merge, chain, view, sandbox.uid_base, name)
                await sandbox.exec(["true"])
        except BaseException:
            await shielded(asyncio.to_thread(self._store.drop, name))
            raise
        finally:
            await shielded(sandbox.close())
        return name

    async def _keep_layer(
        self, made: "_Made", source: Path, uid: int, below: Image, *, copy: bool
    ) -> Image:
        """A layer of what a sandbox wrote, on top of its image."""
        label = fresh_name("s")
        if made.scratch.volume is not None and not made.on_disk:
            name = await self._keep_subvolume(made, made.scratch.volume, label, copy=copy)
        else:
            name = await self._keep_folders(source, uid, label, copy=copy)
        layers = (*self._chains.shortened(below.layers), name)
        image = replace(below, digest=label, layers=layers)
        self._lineage.keep(image)
        return image

    async def _keep_folders(self, source: Path, uid: int, label: str, *, copy: bool) -> str:
        owner, _ = self._started()
        name = f"owners/{owner.id}/layers/{label}"
        folder = self._store.folder(name)
        folder.mkdir(mode=0o700)
        try:
            for upper, part in (("u", "root"), ("U", "usr")):
                if (source / upper).is_dir():
                    await take_upper(source / upper, folder / part, copy=copy)
            self._store.seal(folder, Layer(uid_base=uid))
        except BaseException:
            await shielded(asyncio.to_thread(remove_tree, folder))
            raise
        return name

    async def _keep_subvolume(
        self, made: "_Made", volume: Volume, label: str, *, copy: bool
    ) -> str:
        """The whole subvolume becomes a layer where it is, or a snapshot of it: nothing is copied.

        Overlays stand on its upper folders alone. Its work folder, which a volatile overlay has
        marked as used, is never a work folder again.
        """
        keep = volume.snapshot if copy else volume.rename
        try:
            await shielded(asyncio.to_thread(keep, made.name, label))
        except OSError as exc:
            raise SandboxError(f"cannot keep the subvolume {made.name}: {exc.strerror}") from exc
        except asyncio.CancelledError:
            await shielded(self._remove_subvolume(label))
            raise
        name = f"{self._volume_prefix}{label}"
        uppers = ("u", "U") if made.has_usr else ("u",)
        self._store.adopt(name, Layer(uid_base=made.uid, uppers=uppers), volume.path(label))
        return name

    @property
    def _volume_prefix(self) -> str:
        """Of the names of layers on the volume; with the root folder, where a launcher has them."""
        owner, _ = self._started()
        return f"owners/{owner.id}/{MOUNTED_AT}/"

    def _lose_volume(self, volume: Volume) -> None:
        """End what stands on it: to those who use it, it is lost, and no failure of theirs."""
        self._store.forget(self._volume_prefix)
        self._rooms.leave(str(volume.root))
        for sandbox in self._live.values():
            if sandbox.scratch.is_relative_to(volume.root):
                task = asyncio.ensure_future(sandbox.close())
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def _remove_subvolume(self, name: str) -> None:
        if self._scratches.volume is not None:
            clearer = await self._running_clearer()
            await clearer.clear((), (), [self._scratches.volume.path(name)])

    def _started(self) -> tuple[Owner, Cgroups]:
        if self._owner is None or self._cgroups is None:
            raise SandboxError("the native engine was not started, or is closed")
        return self._owner, self._cgroups


def _room_fields(stacks: Stacks, scratch: Scratch) -> list[tuple[str, str]]:
    """What a room depends on, besides the uids."""
    return [
        *stacks.fields,
        *scratch.fields(),
    ]


def _bare_image(base: str) -> Image:
    return Image(engine=NAME, digest=base, layers=(base,))


def _check_machine(conf: EngineConf, root_dir: Path) -> None:
    possible = CHOICES["engine.scratch"]
    if conf.scratch not in possible:
        raise SandboxError(f"engine.scratch is {conf.scratch!r}; possible: {', '.join(possible)}")
    if any(char in str(root_dir) for char in "\t\n:,="):
        raise SandboxError(f"engine.root_dir {str(root_dir)!r} holds a tab, newline or one of :,=")
    version = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if version < LEAST_KERNEL:
        raise SandboxError(
            f"kernel {os.uname().release} is too old for overlays of id-mapped layers: the native "
            "engine needs 5.19 or newer (Debian 12, Ubuntu 24.04)"
        )
    if shutil.which("cp") is None:
        raise SandboxError("the native engine needs the program cp (coreutils)")
