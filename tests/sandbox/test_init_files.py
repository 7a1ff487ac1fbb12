"""Files and trees in and out of a real init."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.errors import SandboxError, SandboxLost, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.init import build
from rollout.types import Tree, TreeEntry
from tests.sandbox.init_box import Box, running_init, until

pytestmark = pytest.mark.native


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path) as made:
        yield made


async def test_files_round_trip(box: Box) -> None:
    path = str(box.folder / "new" / "deep" / "f")
    data = os.urandom(3_000_001)
    await box.client.write_file(path, data, mode=0o4750, user="1:2")
    assert await box.client.read_file(path) == data
    found = Path(path).stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o4750, 1, 2)
    assert Path(path).parent.stat().st_uid == 1
    await box.client.write_file(path, b"")
    assert await box.client.read_file(path) == b""
    assert (Path(path).stat().st_uid, Path(path).stat().st_mode & 0o7777) == (1, 0o644)


async def test_reading_what_is_no_file(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    with pytest.raises(FileNotFoundError):
        await box.client.read_file("/no/such")
    with pytest.raises(FileNotFoundError):
        await box.client.read_file("/etc/passwd/x")
    for path in (box.folder, box.folder / "fifo", Path("/dev/zero")):
        with pytest.raises(SandboxError, match="no regular file"):
            await box.client.read_file(str(path))
    with pytest.raises(SandboxError, match="no regular file"):
        await box.client.write_file("/dev/null", b"x")
    with pytest.raises(SandboxError, match="fifo"):
        await box.client.write_file(str(box.folder / "fifo"), b"x")
    with pytest.raises(SandboxError, match="absolute"):
        await box.client.read_file("relative")
    assert (await box.client.read_file("/proc/1/comm")).startswith(b"rollout-box")


async def test_a_file_longer_than_allowed(box: Box) -> None:
    (box.folder / "f").write_bytes(bytes(100_000))
    assert len(await box.client.read_file(str(box.folder / "f"), limit_bytes=100_000)) == 100_000
    with pytest.raises(SandboxError, match="more than 99999 bytes"):
        await box.client.read_file(str(box.folder / "f"), limit_bytes=99_999)


async def test_writing_where_nothing_fits_is_an_error_and_not_a_loss(box: Box) -> None:
    assert await box.sh("mkdir -p /run/full && mount -t tmpfs -o size=64k none /run/full") == (
        0,
        "",
    )
    with pytest.raises(SandboxError, match="No space left") as caught:
        await box.client.write_file("/run/full/f", bytes(30 << 20))
    assert not isinstance(caught.value, SandboxLost)
    await box.sh("umount /run/full; rmdir /run/full")


async def test_a_running_program_can_be_replaced(box: Box) -> None:
    tool = box.folder / "tool"
    await box.sh(f"cp $(command -v sleep) {tool}")
    running = asyncio.ensure_future(box.client.exec([str(tool), "70"]))
    await until(lambda: box.runs("tool"))
    await box.client.write_file(str(tool), b"#!/bin/sh\necho new\n", mode=0o755)
    assert (await box.client.exec([str(tool)])).stdout == b"new\n"
    await box.client.kill_all()
    await running


def _sample() -> Tree:
    return Tree(
        (
            TreeEntry("a", "dir", 0o750),
            TreeEntry("a/empty", "file", 0o600),
            TreeEntry("a/link", "link", 0o777, target="../big"),
            TreeEntry("big", "file", 0o755, bytes(range(250)) * 800),
            TreeEntry("ünï\udcff", "file", 0o644, b"odd name"),
        )
    )


async def test_trees_round_trip(box: Box) -> None:
    dest = str(box.folder / "x" / "tree")
    await box.client.put_tree(_sample(), dest, owner="7:8")
    assert await box.client.get_tree(dest) == _sample()
    found = (Path(dest) / "a" / "link").lstat()
    assert (found.st_uid, found.st_gid) == (7, 8)
    await box.client.put_tree(_sample(), dest)
    assert await box.client.get_tree(dest) == _sample()
    one = await box.client.get_tree(f"{dest}/big")
    assert [entry.path for entry in one.entries] == ["big"]
    assert one.entries[0].data == bytes(range(250)) * 800
    with pytest.raises(FileNotFoundError):
        await box.client.get_tree(f"{dest}/none")


async def test_a_tree_never_goes_through_a_link(box: Box) -> None:
    outside, dest = box.folder / "outside", box.folder / "dest"
    outside.mkdir()
    dest.mkdir()
    (outside / "f").write_text("mine")
    (dest / "f").symlink_to(outside / "f")
    (dest / "d").symlink_to(outside)
    await box.client.put_tree(Tree.of({"f": "new"}), str(dest))
    assert not (dest / "f").is_symlink()
    assert (outside / "f").read_text() == "mine"
    with pytest.raises(SandboxError, match="in the way"):
        await box.client.put_tree(Tree.of({"d/f": "new"}), str(dest))
    assert (outside / "f").read_text() == "mine"


async def test_a_tree_replaces_files_and_keeps_folders(box: Box) -> None:
    dest = box.folder / "dest"
    (dest / "keep").mkdir(parents=True, mode=0o700)
    (dest / "keep" / "old").write_text("old")
    (dest / "empty").mkdir()
    (dest / "full" / "x").mkdir(parents=True)
    os.mkfifo(dest / "fifo")
    tree = Tree.of({"keep/new": "1", "empty": "2", "fifo": "3"})
    await box.client.put_tree(tree, str(dest))
    assert (dest / "keep").stat().st_mode & 0o777 == 0o700
    assert {p.name: p.read_text() for p in dest.rglob("*") if p.is_file()} == {
        "new": "1",
        "old": "old",
        "empty": "2",
        "fifo": "3",
    }
    with pytest.raises(SandboxError, match="in the way of full"):
        await box.client.put_tree(Tree.of({"full": "x"}), str(dest))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("mkfifo t/f", "device, a fifo"),
        ("ln -s /etc/passwd t/l", "'l' is a link to"),
        ("mkdir t/d; ln -s ../../x t/d/l", "leaves its tree"),
        ("mkdir -p t/p/q; ln -s ../.. t/p/q/r; ln -s p/q/r/../x t/l", "leaves its tree"),
        ("head -c 2001 /dev/zero > t/f", "2000|2001"),
        ("truncate -s 1T t/f", "has 1099511627776 bytes"),
        ("cd t; seq 201 | xargs touch", "more than 200 names"),
        ("cd t; for i in $(seq 140); do mkdir d; cd d; done", "too deep"),
    ],
)
async def test_trees_that_break_a_rule_are_refused(box: Box, script: str, reason: str) -> None:
    assert (await box.sh(f"mkdir t; {script}", cwd=str(box.folder)))[0] == 0
    with pytest.raises(TreeRefused, match=reason):
        await box.client.get_tree(str(box.folder / "t"), limit_bytes=2000, limit_entries=200)


async def test_remove(box: Box) -> None:
    kept, tree = box.folder / "kept", box.folder / "tree"
    kept.mkdir()
    (kept / "f").write_text("x")
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "f").write_text("x")
    (tree / "link").symlink_to(kept)
    await box.client.remove(f"{tree}/")
    assert not tree.exists()
    assert (kept / "f").exists()
    await box.client.remove(str(tree))
    await box.client.remove("/no/such/name")
    for path in ("/", "/tmp/..", f"{kept}/."):
        with pytest.raises(SandboxError, match="cannot be removed"):
            await box.client.remove(path)


async def test_removing_what_is_very_deep(box: Box) -> None:
    script = "mkdir t; cd t; for i in $(seq 1500); do mkdir d; cd d; done; echo ok"
    assert await box.sh(script, cwd=str(box.folder)) == (0, "ok\n")
    await box.client.remove(str(box.folder / "t"))
    assert [path.name for path in box.folder.iterdir()] == ["s"]


async def test_file_operations_hold_nobody_up_and_end_when_cancelled(box: Box) -> None:
    def halves() -> bytes:
        return wire.file_request(wire.Op.WRITE_FILE, str(box.folder / "f")) + b"\x05\xff\0\0\0ha"

    with box.raw() as stalled:
        stalled.sendall(halves())
        assert await box.sh("echo quick") == (0, "quick\n")
        _, before = await box.sh("ls -d /proc/[0-9]* | wc -l")

    async def fewer() -> bool:
        return int((await box.sh("ls -d /proc/[0-9]* | wc -l"))[1]) < int(before)

    await until(fewer)


LINGERING_EXIT = """
#include <unistd.h>
_Noreturn void __real__exit(int code);
_Noreturn void __wrap__exit(int code) { sleep(5); __real__exit(code); }
"""


@pytest.fixture
def lingering_box(tmp_path: Path) -> Iterator[Box]:
    """An init whose file operations live on for a while after their answer."""
    source, program = tmp_path / "exit.c", tmp_path / "rollout-box"
    source.write_text(LINGERING_EXIT)
    sources = [*sorted(build.HERE.glob("*.c")), source]
    wrapped = [*build.FLAGS, '-DSOURCES_DIGEST="x"', "-Wl,--wrap=_exit", "-o", program, *sources]
    subprocess.run(["gcc", *wrapped], check=True)
    with running_init(tmp_path, program) as made:
        yield made


@pytest.mark.parametrize("op", [wire.Op.WRITE_FILE, wire.Op.UNPACK_TREE])
async def test_a_file_is_closed_before_the_host_hears_that_it_is_written(
    lingering_box: Box, op: wire.Op
) -> None:
    """Whoever executes it at once would else find it "busy", code 126, now and then.

    Always here: the connection stays open, so nothing ends the process that wrote.
    """
    box = lingering_box
    script = b"#!/bin/sh\nexit 7\n"
    place, content = box.folder / "run", wire.frame(wire.In.DATA, script)
    if op is wire.Op.UNPACK_TREE:
        content = wire.entry(wire.EntryHead("file", 0o755, b"run", b"")) + content
    dest = str(place if op is wire.Op.WRITE_FILE else box.folder)
    with box.raw() as writing:
        request = wire.file_request(op, dest, owner="", mode=0o755)
        writing.sendall(request + content + wire.frame(wire.In.END))
        assert writing.recv(5)[:1] == bytes([wire.Out.OK])
        assert (await box.client.exec([str(place)])).exit_code == 7
