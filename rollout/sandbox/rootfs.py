"""Layers for bases that are kept: the host as it was once, and a root of one's own.

A layer is made in its owner's folder, which is swept when the owner dies, and appears by a rename
under the fingerprint of what it holds. So it is made once on a machine however many ask, it is
there whole or not at all, and whoever finds it does not look at the source again.
"""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

from rollout.aio import shielded
from rollout.errors import BuildError, ConfigError
from rollout.sandbox.bases import DEBIAN, HOST_FROZEN, IMAGE, ROOTFS_LINKED, Base
from rollout.sandbox.copies import COPY, COPY_PLAIN, LINK, copy_tree
from rollout.sandbox.daemon_images import image_digest
from rollout.sandbox.debian import DebianLayers
from rollout.sandbox.images import ImageStore, Layer, building, fresh_name
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.skeleton import Skeleton
from rollout.sandbox.supply import supply
from rollout.sandbox.survey import Survey, source_digest, survey_host, survey_rootfs
from rollout.sandbox.unpacking import LIMIT_BYTES, LIMIT_ENTRIES, unpack_archive
from rollout.types import digest_of

VERSION = 1
"""Of how a layer is made of a base; another number makes all of them anew."""
USR = Path("/usr")

Fill = Callable[[Path], Awaitable[None]]

log = logging.getLogger(__name__)


class BaseLayers:
    """The kept bases of one engine. It must be given `owner_layers`, a folder of its owner's."""

    def __init__(
        self,
        store: ImageStore,
        owner_layers: Path,
        host: str,
        *,
        usr: Path = USR,
        limit_bytes: int = LIMIT_BYTES,
        limit_entries: int = LIMIT_ENTRIES,
    ) -> None:
        """`host`: the name of the live host's layer, which tells of its /etc; `usr`: its /usr."""
        self._store = store
        self._owner_layers = owner_layers
        self._host = host
        self._usr = usr
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._frozen = ""
        self._archives: dict[tuple[Base, int, int, int, int], str] = {}
        self._freezing = asyncio.Lock()

    async def layer(self, base: Base, blueprint: str) -> str:
        """The name of the base's layer, made where it is missing. BuildError says why not.

        A `host-frozen` without fingerprint is what /usr holds when this engine is first asked,
        and stays that. A rootfs without one is looked through at every call.
        """
        try:
            if base.kind == DEBIAN:
                return await DebianLayers(self._store, self._owner_layers).layer(base, blueprint)
            if base.kind != HOST_FROZEN:
                return await self._rootfs(base, blueprint)
            async with self._freezing:
                name = await self._host_frozen(base, blueprint)
                self._frozen = self._frozen if base.digest else name
                return name
        except (BuildError, ConfigError, OSError) as exc:
            raise BuildError(f"blueprint {blueprint!r}: {exc}") from exc

    # ---------------------------------------------------------------- the host, frozen

    async def _host_frozen(self, base: Base, blueprint: str) -> str:
        """/usr by hard links, 16 s for 150,000 names, or copied from another file system.

        Links share what a file holds: an upgrade puts new files in the place of old ones and does
        not show, but a file of the host's that is written in place changes here too. Sandboxes
        cannot write to either: their layers are read-only and under other ids.
        """
        if self._frozen and not base.digest:
            return self._frozen
        if base.digest and self._store.has(_name(HOST_FROZEN, base.digest)):
            return _name(HOST_FROZEN, base.digest)
        found = await asyncio.to_thread(survey_host, self._usr)
        digest = digest_of([self._host, found.digest])
        _check_pin(base, digest)

        async def fill(root: Path) -> None:
            await asyncio.to_thread(lambda: Skeleton().write(root))
            (root / "usr").rmdir()
            await self._take(self._usr, root / "usr", found, link=True, options=COPY)
            copied = await asyncio.to_thread(survey_host, root / "usr")
            if copied.digest != found.digest:
                raise BuildError(f"{self._usr} changed while it was frozen; try again")

        await self.make_once(_name(HOST_FROZEN, digest), blueprint, fill)
        log.info("the frozen host is %s", base.pinned(digest))
        return _name(HOST_FROZEN, digest)

    # ---------------------------------------------------------------- a rootfs

    async def _rootfs(self, base: Base, blueprint: str) -> str:
        if base.digest and self._store.has(_name(base.kind, base.digest)):
            return _name(base.kind, base.digest)
        digest = await asyncio.to_thread(self.digest_now, base)
        _check_pin(base, digest)
        is_folder = await asyncio.to_thread(os.path.isdir, base.path)

        async def fill(root: Path) -> None:
            if is_folder:
                await self._take_folder(base, root)
            else:
                await self._unpack(base, root)
            if await asyncio.to_thread(_digest_made, base, root) != digest:
                raise BuildError(f"{base.path} changed while it was taken; try again")
            await asyncio.to_thread(supply, root)

        await self.make_once(_name(base.kind, digest), blueprint, fill)
        return _name(base.kind, digest)

    def digest_now(self, base: Base) -> str:
        """An archive is read again only when it has changed; a folder must be looked through."""
        if base.kind == IMAGE:
            return image_digest(base.path)
        path = Path(base.path)
        if not path.is_file():
            return source_digest(base)
        found = path.stat()
        key = (base, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in self._archives:
            self._archives[key] = source_digest(base)
        return self._archives[key]

    async def _take_folder(self, base: Base, root: Path) -> None:
        # Resolved: cp would copy a link as a link.
        source = await asyncio.to_thread(Path(base.path).resolve)
        if self._owner_layers.is_relative_to(source):
            raise BuildError(f"{source} holds engine.root_dir, so it cannot be copied into it")
        found = await asyncio.to_thread(survey_rootfs, source)
        link = base.kind == ROOTFS_LINKED
        await self._take(source, root, found, link=link, options=COPY_PLAIN)

    async def _unpack(self, base: Base, root: Path) -> None:
        with await asyncio.to_thread(_open_pair, base.path, root) as archive:
            await unpack_archive(
                archive,
                root,
                named=base.path,
                limit_bytes=self._limit_bytes,
                limit_entries=self._limit_entries,
            )

    # ---------------------------------------------------------------- making a layer

    async def make_once(self, name: str, blueprint: str, fill: Fill) -> None:
        """The layer `name`, whose root `fill` makes, unless it is there."""
        if self._store.has(name):
            return
        async with building(self._store.folder(f"{name}.lock"), blueprint):
            if self._store.has(name):
                return
            made = self._owner_layers / fresh_name("b")
            made.mkdir(mode=0o755)
            try:
                await fill(made / "root")
                self._store.seal(made, Layer())
                await asyncio.to_thread(self._store.publish, made, name)
            finally:
                await shielded(asyncio.to_thread(remove_tree, made))

    async def _take(
        self, source: Path, target: Path, found: Survey, *, link: bool, options: tuple[str, ...]
    ) -> None:
        """By links where that is wanted and can be, else by a copy, if there is room for it."""
        link = link and _can_link(found, target.parent)
        told = f"{found.names:,} names and {found.size_bytes >> 20:,} MB of {source}"
        free = shutil.disk_usage(target.parent).free
        if not link and found.size_bytes > free:
            raise BuildError(
                f"no room to copy {told} into {target.parent}: {free >> 20:,} MB are free; set "
                "engine.root_dir to a larger file system"
            )
        log.warning("%s %s, once; this may take a while", "linking" if link else "copying", told)
        began = time.monotonic()
        await copy_tree(LINK if link else options, source, target)
        log.info("took %s in %.1f s", source, time.monotonic() - began)


def _name(kind: str, digest: str) -> str:
    return f"base/{kind}-{VERSION}-{digest[:32]}"


def _check_pin(base: Base, digest: str) -> None:
    if base.digest and base.digest != digest:
        source = base.path or "this machine's /usr"
        raise BuildError(
            f"base {base}: {source} holds sha256:{digest} now; it has changed since the run was "
            "planned, or is another on this machine"
        )


def _open_pair(archive: str, folder: Path) -> IO[bytes]:
    """An archive to read, and the empty folder that it goes to."""
    folder.mkdir(mode=0o755)
    return Path(archive).open("rb")


def _digest_made(base: Base, root: Path) -> str:
    """Of a copy, what it holds; of an archive, whether that is still what was unpacked."""
    if Path(base.path).is_dir():
        return survey_rootfs(root).digest
    return source_digest(base)


def _can_link(found: Survey, folder: Path) -> bool:
    """Two mounts of one file system have one device number and allow no links: only a try tells."""
    if not found.sample:
        return False
    trial = folder / fresh_name("link-")
    try:
        os.link(found.sample, trial, follow_symlinks=False)
    except OSError:
        return False
    trial.unlink()
    return True
