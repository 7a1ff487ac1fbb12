"""Scratch on btrfs: one sparse image for an owner, and in it a subvolume for each sandbox.

A subvolume is made, limited, copied and removed in a fraction of a millisecond, whatever it holds.
The launcher mounts the image where only it and its sandboxes see it (init/volume.c), so all of it
ends with the launcher. The host reaches it through a descriptor of the launcher's, and uses it only
for what it does to whole subvolumes: what is inside one is never opened by name.

The image is sparse, and what is deleted goes back to the host. Should the host's disk fill up below
it all the same, writes fail with I/O errors for every sandbox on it; so no sandbox is made there
while less than a reserve is free. A volume that did not survive that is replaced.
"""

import asyncio
import fcntl
import os
import shutil
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from rollout.config import EngineConf
from rollout.errors import SandboxError
from rollout.sandbox.launcher import Launcher, NoVolume

MOUNTED_AT = "mnt/v"
"""Below the owner's folder, for the launcher and its sandboxes alone."""
MKFS = "mkfs.btrfs"
MKFS_TIMEOUT_S = 120.0
SHARE_OF_FREE = 0.9
LEAST_MB = 256
SYSFS = Path("/sys/fs/btrfs")
NEAR_LIMIT_BYTES = 256 << 10
"""A write needs room for metadata too, so the kernel refuses it some nodes before the limit."""

_ARGS_BYTES = 4096
_SNAP_DESTROY = 0x5000940F
_INO_LOOKUP = 0xD0009412
_SNAP_CREATE_V2 = 0x50009417
_READ_ONLY = 2
_TOP_INODE = 256


class Volume:
    """One mounted image. All methods but `make` block; none for longer than the disk does."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        """Where the host finds its top folder, while the launcher lives."""
        self._qgroups = SYSFS / name / "qgroups"

    @classmethod
    async def make(cls, folder: Path, launcher: Launcher, conf: EngineConf) -> "Volume":
        """The one volume of this launcher, its image below the owner's `folder`.

        NoVolume if the machine cannot; SandboxError if the disk is too full.
        """
        name = str(uuid.uuid4())
        image = folder / f"{name}.btrfs"
        try:
            await asyncio.to_thread(_make_image, image, name, conf)
            root = await launcher.mount_volume(image)
        finally:
            await asyncio.to_thread(image.unlink, missing_ok=True)
        volume = cls(root, name)
        if not volume._qgroups.is_dir():
            raise NoVolume(f"{volume._qgroups} is missing: mount sysfs on /sys")
        return volume

    @property
    def broken(self) -> bool:
        """Whether the kernel has given it up, since a write to the image failed."""
        try:
            return bool(os.statvfs(self.root).f_flag & os.ST_RDONLY)
        except OSError:
            return True

    def path(self, name: str) -> Path:
        """Where the host finds a subvolume."""
        return self.root / name

    def disk(self, name: str, limit_bytes: int) -> "SubvolumeDisk":
        """The meter of a subvolume that was made with this limit; SandboxError if it is gone."""
        args = bytearray(struct.pack("=QQ4080x", 0, _TOP_INODE))
        try:
            handle = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.ioctl(handle, _INO_LOOKUP, args)
            finally:
                os.close(handle)
        except OSError as exc:
            raise SandboxError(f"subvolume {name}: {exc.strerror}") from exc
        (number,) = struct.unpack_from("=Q", args)
        qgroup = self._qgroups / f"0_{number}"
        return SubvolumeDisk(str(qgroup / "referenced"), str(qgroup / "rsv_data"), limit_bytes)

    def rename(self, name: str, new: str) -> None:
        self.path(name).rename(self.path(new))

    def snapshot(self, name: str, new: str, *, read_only: bool = True) -> None:
        """A copy, whose blocks are shared until one side writes.

        With simple quotas what both hold is charged to the sandbox that wrote it, also once it has
        deleted its own, until the copy is removed.
        """
        source = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            flags = _READ_ONLY if read_only else 0
            args = struct.pack("=qQQ32x4040s", source, 0, flags, new.encode())
            self._control(_SNAP_CREATE_V2, args)
        finally:
            os.close(source)

    def remove(self, name: str) -> None:
        """Fine if it is gone."""
        try:
            self._control(_SNAP_DESTROY, struct.pack("=q4088s", 0, name.encode()))
        except FileNotFoundError:
            return

    def _control(self, request: int, args: bytes) -> None:
        assert len(args) == _ARGS_BYTES
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, request, bytearray(args))
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class SubvolumeDisk:
    """What a subvolume holds against its limit, as the kernel counts it.

    What was deleted counts until the next commit, some seconds later, so a look soon after a write
    was refused still finds the limit reached.
    """

    referenced: str
    reserved: str
    """Files of the kernel's: bytes written out, and bytes still to be."""
    limit_bytes: int

    def usage(self) -> tuple[int, int] | None:
        """(bytes used, bytes allowed); None once it is gone. Reads memory, never the disk."""
        # What is reserved for metadata is left out: it is far more than comes to be written, and
        # the kernel gives it back before it refuses a write.
        try:
            used = _read_number(self.referenced) + _read_number(self.reserved)
        except (OSError, ValueError):
            return None
        return used, self.limit_bytes

    def full(self) -> bool:
        """Whether little more could be written."""
        usage = self.usage()
        return usage is not None and usage[0] + self._near >= self.limit_bytes

    @property
    def _near(self) -> int:
        return min(NEAR_LIMIT_BYTES, self.limit_bytes // 8)


def _read_number(file: str) -> int:
    """Half the time of a `Path.read_text`, and asked after each call into a sandbox."""
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(handle, 32))
    finally:
        os.close(handle)


def check_reserve(root_dir: Path, reserve_mb: int) -> None:
    """SandboxError if the host's disk is too full for anyone to write more."""
    space = os.statvfs(root_dir)
    free_mb = space.f_bavail * space.f_frsize >> 20
    if free_mb < reserve_mb:
        raise SandboxError(
            f"only {free_mb} MB are free in {root_dir}, less than engine.volume_reserve_mb="
            f"{reserve_mb}: no sandbox with a disk limit is made until there is more"
        )


def mkfs_program() -> str | None:
    """Where mkfs.btrfs is, also for those whose PATH leaves out the folders of administrators."""
    return shutil.which(MKFS, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _make_image(image: Path, name: str, conf: EngineConf) -> None:
    program = mkfs_program()
    if program is None:
        raise NoVolume(f"there is no {MKFS}: install btrfs-progs")
    space = os.statvfs(image.parent)
    free_mb = space.f_bavail * space.f_frsize >> 20
    size_mb = conf.volume_mb or int(free_mb * SHARE_OF_FREE)
    if size_mb < LEAST_MB:
        raise SandboxError(
            f"a volume for disk limits needs {LEAST_MB} MB and would get {size_mb} "
            f"({free_mb} MB are free in {image.parent}): free some, or raise engine.volume_mb"
        )
    # Nothing in it outlives its launcher: one copy of everything is enough.
    single = ("--data", "single", "--metadata", "single")
    command = (program, "--quiet", "--nodiscard", *single, "--uuid", name, str(image))
    with image.open("xb") as file:
        file.truncate(size_mb << 20)
    try:
        done = subprocess.run(command, capture_output=True, timeout=MKFS_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise NoVolume(f"{MKFS} took more than {MKFS_TIMEOUT_S:g} s") from exc
    if done.returncode:
        raise NoVolume(f"{MKFS} failed: {done.stderr[-500:].decode(errors='replace').strip()}")
