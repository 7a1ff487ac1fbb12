"""Where a sandbox writes: a plain folder, a subvolume with a limit, or a tmpfs with a limit.

`auto` spends a subvolume only where a disk limit was asked for, and a tmpfs where this machine has
no btrfs. Project quotas of ext4 and xfs are not among the choices: see the README.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rollout.aio import shielded
from rollout.config import EngineConf
from rollout.errors import SandboxError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.launcher import Launched, Launcher, NoVolume
from rollout.sandbox.volume import Volume, check_reserve

log = logging.getLogger(__name__)


class Disk(Protocol):
    """The meter of a limited scratch; cheap enough to be asked often."""

    def usage(self) -> tuple[int, int] | None:
        """(bytes used, bytes allowed); None once it is gone."""

    def full(self) -> bool:
        """Whether the limit is reached."""


@dataclass(frozen=True, slots=True)
class TmpfsDisk:
    path: Path

    def usage(self) -> tuple[int, int] | None:
        try:
            space = os.statvfs(self.path)
        except OSError:
            return None
        return (space.f_blocks - space.f_bfree) * space.f_frsize, space.f_blocks * space.f_frsize

    def full(self) -> bool:
        try:
            space = os.statvfs(self.path)
        except OSError:
            return False
        return space.f_bavail == 0 or space.f_favail == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """What one sandbox writes to."""

    name: str
    folder: Path
    """Below `b/` of the owner: the init's socket, and all that is written where it is plain."""
    limit_bytes: int | None = None
    tmpfs_bytes: int = 0
    volume: Volume | None = None

    def fields(self) -> list[tuple[str, str]]:
        """Its part of the launcher's request."""
        if self.volume is not None:
            return [("subvolume", str(self.limit_bytes or 0))]
        return [("tmpfs", str(self.tmpfs_bytes))] if self.tmpfs_bytes else []

    def source(self, launched: Launched) -> Path:
        """Where the host finds the upper folders."""
        if self.volume is not None:
            return self.volume.path(self.name)
        return launched.scratch or self.folder

    def disk(self, launched: Launched) -> Disk | None:
        """None where no limit was asked for, or none holds."""
        if self.limit_bytes is None:
            return None
        if self.volume is not None:
            return self.volume.disk(self.name, self.limit_bytes)
        return TmpfsDisk(launched.scratch) if launched.scratch is not None else None

    @property
    def subvolumes(self) -> tuple[Path, ...]:
        """What is to be removed besides the folder."""
        return () if self.volume is None else (self.volume.path(self.name),)


class Scratches:
    """Chooses for each sandbox of one engine, and makes the volume when it is first needed."""

    def __init__(
        self, conf: EngineConf, root_dir: Path, label: str, lost: Callable[[Volume], None]
    ) -> None:
        """`lost` is called with a volume on which nothing can be written any more."""
        self._conf = conf
        self._label = label
        self._lost = lost
        self._root_dir = root_dir
        self._making = asyncio.Lock()
        self._of: Launcher | None = None
        self._volume: Volume | None = None
        self._without = ""
        """Why this machine has no volume, once that is known."""

    @property
    def limited(self) -> bool:
        return self._conf.scratch != "disk"

    @property
    def volume(self) -> Volume | None:
        """Of the launcher that lives, if it has one."""
        return self._volume if self._of is not None and self._of.alive else None

    async def choose(
        self, spec: SandboxSpec, name: str, owner_folder: Path, launcher: Launcher
    ) -> Scratch:
        """SandboxError if the limit asked for cannot be had, or the disk is too full."""
        folder = owner_folder / "b" / name
        disk_mb = spec.resources.disk_mb
        limit_bytes = None if disk_mb is None else disk_mb << 20
        kind = self._conf.scratch
        if kind == "disk" or (kind == "auto" and disk_mb is None):
            return Scratch(name=name, folder=folder)
        if kind != "tmpfs":
            volume = await self._volume_of(launcher, owner_folder)
            if volume is not None:
                check_reserve(self._root_dir, self._conf.volume_reserve_mb)
                return Scratch(name=name, folder=folder, limit_bytes=limit_bytes, volume=volume)
        size_bytes = _half_of_memory() if limit_bytes is None else limit_bytes
        return Scratch(name=name, folder=folder, limit_bytes=limit_bytes, tmpfs_bytes=size_bytes)

    async def _volume_of(self, launcher: Launcher, owner_folder: Path) -> Volume | None:
        """None if the machine cannot have one and another choice is allowed."""
        async with self._making:
            if self._of is launcher and (self._without or self._usable()):
                return self._volume
            if self._volume is not None:
                self._lost(self._volume)
                launcher.drop_volume()  # the image's space may be just what is lacking
            self._of, self._volume = launcher, None
            try:
                await shielded(self._make_volume(launcher, owner_folder))
            except NoVolume as exc:
                if self._conf.scratch == "btrfs":
                    raise SandboxError(f"engine.scratch=btrfs: {exc}") from exc
                self._without = str(exc)
                log.warning(
                    "%s: disk limits are held by tmpfs, in memory, and not by btrfs: %s",
                    self._label,
                    exc,
                )
            return self._volume

    def _usable(self) -> bool:
        if self._volume is None or not self._volume.broken:
            return self._volume is not None
        log.warning(
            "%s: writing to the btrfs image failed, as when the disk is full: sandboxes and "
            "images on it are lost, new ones get a new image",
            self._label,
        )
        return False

    async def _make_volume(self, launcher: Launcher, owner_folder: Path) -> None:
        if os.geteuid() != 0:
            raise NoVolume("only root may mount it")
        check_reserve(self._root_dir, self._conf.volume_reserve_mb)
        self._volume = await Volume.make(owner_folder, launcher, self._conf)


def _half_of_memory() -> int:
    """As tmpfs itself has it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
