"""Probes: files, sockets and devices of the host."""

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.security.probes.probe import probe, refuse

IMMUTABLE = 0x10
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
NULL = os.makedev(1, 3)
PLAIN_DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts"}


def is_etc(path: str, etc: list[int]) -> str:
    found = os.stat(path)
    if [found.st_dev, found.st_ino] != etc:
        raise refuse("its own")
    return path


@probe("files", "unmount")
def root_above_the_root(etc: list[int]) -> object:
    return is_etc("/../etc", etc)


@probe("files", "pivot userns")
def out_of_a_chroot(etc: list[int]) -> object:
    """Out of an inner root, whose outer one is then just a folder on the way up. On that way lie
    folders that only root of the host may pass."""
    Path("/tmp/inner").mkdir()
    os.chroot("/tmp/inner")
    os.chdir("../" * 50)
    os.chroot(".")
    return is_etc("/etc", etc)


@probe("files", "userns caps")
def trusted_attribute() -> object:
    """What overlays keep their own notes in."""
    Path("/tmp/noted").touch()
    os.setxattr("/tmp/noted", "trusted.probe", b"y")
    return os.listxattr("/tmp/noted")


@probe("files", "userns caps")
def file_nobody_can_remove() -> object:
    path = Path("/tmp/immutable")
    path.touch()
    with path.open() as file:
        flags = struct.unpack("q", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))[0]
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("q", flags | IMMUTABLE))
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("q", flags))
    return flags


def special_files() -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of all in the root that is no file, folder or link; not of /proc, nor of the
    many names of /usr, where no host has any."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1]  # what is mounted there is not what its folder says of it
        if Path(point).exists() and not Path(point).is_dir():
            yield point, os.stat(point)
    folders = ["/"]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.path not in ("/proc", "/usr"):
                    folders.append(entry.path)
            elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                yield entry.path, entry.stat(follow_symlinks=False)


@probe("files", "laid")
def file_of_the_host_by_its_path(secret_path: str, secret: str) -> object:
    text = Path(secret_path).read_text()
    if text != secret:
        raise refuse("another text")
    return text


@probe("files", "laid")
def sockets_of_the_host() -> object:
    """Of a Docker daemon, for one."""
    found = [path for path, about in special_files() if stat.S_ISSOCK(about.st_mode)]
    if not found:
        raise refuse("none")
    return found


# ---------------------------------------------------------------- devices


@probe("files", "laid")
def devices_of_the_host(laid: str) -> object:
    """Any but the few that every program counts on: disks, kvm, fuse, the memory."""
    found = [
        path
        for path, about in special_files()
        if (stat.S_ISBLK(about.st_mode) or stat.S_ISCHR(about.st_mode))
        and not (path.startswith("/dev/") and path.split("/")[2] in PLAIN_DEVICES)
        and about.st_rdev != NULL  # with which whatever is not to be read is covered
        and path != laid  # which is there to be tried by another probe
    ]
    if not found:
        raise refuse("none")
    return found


@probe("files", "userns caps")
def make_a_device() -> object:
    return os.mknod("/tmp/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))


@probe("files", "userns caps nodev")
def read_a_device_of_its_own(disk: list[int]) -> object:
    """The host's disk, where it has one; past all files and rights."""
    kind = stat.S_IFBLK if disk != [1, 5] else stat.S_IFCHR
    os.mknod("/tmp/disk", kind | 0o600, os.makedev(*disk))
    with open("/tmp/disk", "rb", buffering=0) as device:
        return len(device.read(512))


@probe("files", "nodev")
def device_in_a_layer(laid: str) -> object:
    with open(laid, "rb", buffering=0) as device:
        return device.read(8)


@probe("files", "dev userns")
def write_to_the_shared_dev() -> object:
    path = Path("/dev/left-for-neighbours")
    path.write_text("x")
    path.unlink()
    return path


@probe("files", "dev userns")
def change_a_shared_device() -> object:
    return os.chmod("/dev/null", 0o666)
