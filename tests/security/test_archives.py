"""Hostile archives against every place that unpacks one: each is refused with a typed error.

Nothing outside is read or written, and memory stays bounded, whatever the archive holds.
"""

import gzip
import hashlib
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from rollout.errors import ConfigError, TreeRefused
from rollout.objects.unpack import tree_of
from rollout.sandbox import unpack
from rollout.sandbox.restore import restore_layer
from rollout.sandbox.unpacking import unpack_command
from rollout.tasks.archives import read_archive
from rollout.tasks.trees import Budget
from tests.security.archives import BOMBS, CORPUS, WHITEOUTS, Place

SECRET = "of somebody else"
LIMIT_BYTES = 8 << 20
LIMIT_ENTRIES = 2_000
MOST_MEMORY = 48 << 20
REFUSED = "refused"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as who unpacks it")


def as_rootfs(archive: Path, target: Path, *modes: str) -> str:
    """In a process of its own, whose memory is limited by itself."""
    program = unpack_command(target, *modes, limit_bytes=LIMIT_BYTES, limit_entries=LIMIT_ENTRIES)
    with archive.open("rb") as file:
        done = subprocess.run(program, stdin=file, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
    return REFUSED if done.returncode else ""


def as_image_layer(archive: Path, target: Path) -> str:
    """With the digest that the image rightly says it has."""
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        content = unpack.decompressed(file)
        with suppress(EOFError):
            while piece := content.read(1 << 20):
                digest.update(piece)
    return as_rootfs(archive, target, "layer", digest.hexdigest())


def as_kept_state(archive: Path, target: Path) -> str:
    data = archive.read_bytes()
    archive.write_bytes(data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1))
    try:
        restore_layer(archive, target, 500_000, limit_bytes=LIMIT_BYTES)
    except TreeRefused:
        return REFUSED
    return ""


def as_object(archive: Path, target: Path) -> str:
    try:
        with archive.open("rb") as file:
            tree = tree_of(file, limit_bytes=LIMIT_BYTES, limit_entries=LIMIT_ENTRIES)
    except TreeRefused:
        return REFUSED
    assert SECRET.encode() not in tree.files().values()
    return ""


def as_added(archive: Path, target: Path) -> str:
    """What ADD of a Dockerfile unpacks."""
    try:
        tree = read_archive(archive, Budget(LIMIT_BYTES))
    except ConfigError:
        return REFUSED
    assert SECRET.encode() not in (tree.files().values() if tree else ())
    return ""


READERS: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "rootfs": (as_rootfs, ""),
    "image layer": (as_image_layer, ""),
    "kept state": (as_kept_state, "root/"),
    "object": (as_object, ""),
    "ADD": (as_added, ""),
}
HARMLESS = {
    ("rootfs", "a pax name of nothing"),
    ("image layer", "a pax name of nothing"),
    ("object", "a pax name of nothing"),
    ("ADD", "a pax name of nothing"),
    ("object", "a folder of the mode of a link's end"),
    ("ADD", "a folder of the mode of a link's end"),
    ("kept state", "fifo"),
}
"""Taken, since it is what it says: the root itself, a folder in a link's place, a fifo."""


@cache
def bomb(name: str, below: str) -> bytes:
    return BOMBS[name](Place("/nowhere", "..", below))


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_nlink,
            path.lstat().st_mode,
        )
        for path in [folder, *folder.rglob("*")]
    }


@needs_root
@pytest.mark.parametrize(
    ("reader", "name"),
    [
        *((reader, name) for reader in READERS for name in CORPUS),
        *(("image layer", name) for name in WHITEOUTS),
    ],
)
def test_a_hostile_archive_is_refused_and_touches_nothing(
    tmp_path: Path, reader: str, name: str
) -> None:
    read, below = READERS[reader]
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "secret").write_text(SECRET)
    place = Place(str(outside), "../" * bool(below) + "../outside", below)
    made = bomb(name, below) if name in BOMBS else (CORPUS | WHITEOUTS)[name](place)
    (tmp_path / "archive").write_bytes(made)
    before, shadow = contents(outside), Path("/etc/shadow").stat().st_nlink
    del made
    Path("/proc/self/clear_refs").write_text("5")
    held = peak_memory()
    came = read(tmp_path / "archive", target)
    assert came == REFUSED or (reader, name) in HARMLESS
    assert peak_memory() - held < MOST_MEMORY
    assert contents(outside) == before
    assert Path("/etc/shadow").stat().st_nlink == shadow
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "target", "archive"}
    for path in target.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() != SECRET.encode()
