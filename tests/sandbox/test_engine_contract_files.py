"""What every engine must do, part 2: files and trees."""

import pytest

from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.base import Sandbox
from rollout.types import Tree, TreeEntry
from tests.sandbox.harness import Sh

# ---------------------------------------------------------------- single files


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
async def test_a_file_comes_back_as_written(box: Sandbox, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    await box.write_file("/tmp/file", data)
    assert await box.read_file("/tmp/file") == data


async def test_processes_and_files_see_the_same(box: Sandbox, sh: Sh) -> None:
    await box.write_file("/tmp/in", b"from outside\n")
    assert (await sh("cat /tmp/in; echo from inside > /tmp/out")).stdout == b"from outside\n"
    assert await box.read_file("/tmp/out") == b"from inside\n"


@pytest.mark.feature("users")
async def test_writing_makes_folders_sets_mode_and_owner(box: Sandbox, sh: Sh) -> None:
    await box.write_file("/new/deep/file", b"x", mode=0o750, user="nobody")
    found = await sh("stat -c '%a %U' /new/deep/file; stat -c %a /new/deep")
    assert found.stdout == b"750 nobody\n755\n"
    await box.write_file("/new/deep/other", b"x")
    assert (await sh("stat -c '%a %U' /new/deep/other")).stdout == b"644 root\n"


async def test_writing_replaces_content_and_mode(box: Sandbox, sh: Sh) -> None:
    await box.write_file("/tmp/file", b"a longer text", mode=0o600)
    await box.write_file("/tmp/file", b"short", mode=0o755)
    assert await box.read_file("/tmp/file") == b"short"
    assert (await sh("stat -c %a /tmp/file")).stdout == b"755\n"


async def test_writing_where_a_folder_or_file_is_in_the_way(box: Sandbox) -> None:
    await box.write_file("/tmp/file", b"")
    for path in ("/tmp", "/tmp/file/below"):
        with pytest.raises(SandboxError):
            await box.write_file(path, b"x")


async def test_an_unknown_owner_is_refused(box: Sandbox) -> None:
    with pytest.raises(SandboxError):
        await box.write_file("/tmp/file", b"", user="no-such-user")
    with pytest.raises(SandboxError):
        await box.put_tree(Tree.of({"a": b""}), "/tmp", owner="no-such-user")


async def test_reading_what_is_not_there(box: Sandbox) -> None:
    for path in ("/tmp/none", "/none/none"):
        with pytest.raises(FileNotFoundError):
            await box.read_file(path)


async def test_reading_what_is_no_regular_file(box: Sandbox, sh: Sh) -> None:
    assert (await sh("mkfifo /tmp/fifo")).ok
    for path in ("/tmp", "/dev/zero", "/tmp/fifo"):
        with pytest.raises(SandboxError):
            await box.read_file(path)


async def test_reading_has_a_limit(box: Sandbox) -> None:
    await box.write_file("/tmp/file", bytes(1000))
    assert len(await box.read_file("/tmp/file", limit_bytes=1000)) == 1000
    with pytest.raises(SandboxError):
        await box.read_file("/tmp/file", limit_bytes=999)


@pytest.mark.parametrize("path", ["", "relative", "./a"])
async def test_only_absolute_paths_are_taken(box: Sandbox, path: str) -> None:
    with pytest.raises(SandboxError):
        await box.read_file(path)
    with pytest.raises(SandboxError):
        await box.write_file(path, b"")


# ---------------------------------------------------------------- trees

SMALL = Tree(
    (
        TreeEntry("bin", "dir", 0o755),
        TreeEntry("bin/tool", "file", 0o755, b"#!/bin/sh\necho tool\n"),
        TreeEntry("closed", "dir", 0o700),
        TreeEntry("data.bin", "file", 0o640, bytes(range(256)) * 1000),
        TreeEntry("empty", "dir", 0o755),
        TreeEntry("link", "link", 0o777, target="bin/tool"),
        TreeEntry("bin/up", "link", 0o777, target="../data.bin"),
    )
)


def by_path(tree: Tree) -> dict[str, tuple[str, int, bytes, str]]:
    """What two trees must agree in; a link's own mode is the kernel's."""
    return {
        e.path: (e.kind, e.mode if e.kind != "link" else 0, e.data, e.target) for e in tree.entries
    }


async def test_a_tree_comes_back_as_put(box: Sandbox, sh: Sh) -> None:
    await box.put_tree(SMALL, "/srv/place/deep")
    assert by_path(await box.get_tree("/srv/place/deep")) == by_path(SMALL)
    assert (await sh("/srv/place/deep/link")).stdout == b"tool\n"
    assert (await sh("stat -c %U /srv/place/deep/bin/tool")).stdout == b"root\n"


async def test_parents_come_before_what_is_in_them(box: Sandbox) -> None:
    await box.put_tree(SMALL, "/srv/place")
    seen: set[str] = {""}
    for entry in (await box.get_tree("/srv/place")).entries:
        assert entry.path.rpartition("/")[0] in seen
        seen.add(entry.path)


async def test_put_makes_folders_the_tree_does_not_name(box: Sandbox) -> None:
    await box.put_tree(Tree.of({"a/b/c.txt": b"x"}), "/srv/made")
    assert await box.read_file("/srv/made/a/b/c.txt") == b"x"


async def test_an_empty_tree_makes_the_folder(box: Sandbox, sh: Sh) -> None:
    await box.put_tree(Tree(), "/srv/nothing")
    assert (await sh("test -d /srv/nothing")).ok
    assert (await box.get_tree("/srv/nothing")).entries == ()


@pytest.mark.feature("users")
async def test_put_gives_everything_to_the_owner(box: Sandbox, sh: Sh) -> None:
    await box.put_tree(SMALL, "/srv/place", owner="nobody:root")
    found = await sh("cd /srv/place && stat -c '%U %G' . bin bin/tool data.bin link")
    assert found.stdout == b"nobody root\n" * 5


async def test_put_over_existing_files_keeps_what_it_does_not_name(box: Sandbox, sh: Sh) -> None:
    await sh("mkdir -p /srv/a/sub && echo old > /srv/a/file && echo kept > /srv/a/sub/kept")
    await box.put_tree(Tree.of({"file": b"new", "sub/more": b"more"}, mode=0o755), "/srv/a")
    assert await box.read_file("/srv/a/file") == b"new"
    assert (await sh("stat -c %a /srv/a/file; cat /srv/a/sub/kept")).stdout == b"755\nkept\n"
    assert await box.read_file("/srv/a/sub/more") == b"more"


async def test_put_replaces_links_and_never_writes_through_them(box: Sandbox, sh: Sh) -> None:
    await sh(
        "mkdir -p /srv/a /srv/other && echo safe > /srv/other/file && cd /srv/a &&"
        " ln -s ../other/file file && ln -s ../other sub"
    )
    await box.put_tree(Tree.of({"file": b"new"}), "/srv/a")
    assert (await sh("test ! -L /srv/a/file && cat /srv/a/file")).stdout == b"new"
    with pytest.raises(SandboxError):
        await box.put_tree(Tree.of({"sub/file": b"new"}), "/srv/a")
    assert await box.read_file("/srv/other/file") == b"safe\n"


async def test_put_destroys_no_folder_and_enters_no_file(box: Sandbox, sh: Sh) -> None:
    await sh("mkdir -p /srv/a/folder && echo x > /srv/a/file && echo y > /srv/a/folder/inside")
    for path in ("file/below", "folder"):
        with pytest.raises(SandboxError):
            await box.put_tree(Tree.of({path: b""}), "/srv/a")
    assert (await sh("cat /srv/a/file /srv/a/folder/inside")).stdout == b"x\ny\n"


async def test_getting_a_single_file(box: Sandbox) -> None:
    await box.write_file("/srv/one.txt", b"x", mode=0o755)
    tree = await box.get_tree("/srv/one.txt")
    assert tree.entries == (TreeEntry("one.txt", "file", 0o755, b"x"),)


async def test_getting_what_is_not_there(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        await box.get_tree("/srv/none")


HOSTILE = {
    "absolute link": "ln -s /etc/passwd /srv/a/link",
    "link out": "mkdir /srv/a/sub && ln -s ../../b /srv/a/sub/link",
    "link to the parent": "ln -s .. /srv/a/link",
    "link out by a link": "ln -s . /srv/a/d && ln -s d/../../b /srv/a/link",
    "fifo": "mkfifo /srv/a/fifo",
    "deep fifo": "mkdir -p /srv/a/b/c && mkfifo /srv/a/b/c/fifo",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_trees_are_refused(box: Sandbox, sh: Sh, name: str) -> None:
    assert (await sh(f"mkdir /srv/a && echo fine > /srv/a/file && {HOSTILE[name]}")).ok
    with pytest.raises(TreeRefused):
        await box.get_tree("/srv/a")


async def test_devices_are_refused(box: Sandbox) -> None:
    with pytest.raises(TreeRefused):
        await box.get_tree("/dev/zero")


async def test_a_tree_of_too_many_names_or_bytes_is_refused(box: Sandbox, sh: Sh) -> None:
    await sh("mkdir /srv/a && cd /srv/a && for i in 1 2 3 4 5; do head -c 100 /dev/zero > $i; done")
    assert len((await box.get_tree("/srv/a", limit_entries=5, limit_bytes=500)).entries) == 5
    with pytest.raises(TreeRefused):
        await box.get_tree("/srv/a", limit_entries=4)
    with pytest.raises(TreeRefused):
        await box.get_tree("/srv/a", limit_bytes=499)


BAD = {
    "absolute": TreeEntry("/etc/x", "file"),
    "parent": TreeEntry("../x", "file"),
    "inner parent": TreeEntry("a/../../x", "file"),
    "empty": TreeEntry("", "file"),
    "kind": TreeEntry("a", "fifo"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_tree_is_not_put(box: Sandbox, name: str) -> None:
    with pytest.raises(SandboxError):
        await box.put_tree(Tree((BAD[name],)), "/srv/a")


# ---------------------------------------------------------------- removing


async def test_remove_takes_files_and_folders(box: Sandbox, sh: Sh) -> None:
    await box.put_tree(SMALL, "/srv/a")
    await box.remove("/srv/a/data.bin")
    await box.remove("/srv/a/bin")
    assert set((await box.get_tree("/srv/a/closed")).entries) == set()
    await box.remove("/srv/a")
    assert (await sh("test -e /srv/a")).exit_code == 1


async def test_remove_of_nothing_is_fine(box: Sandbox) -> None:
    await box.remove("/srv/none")
    await box.remove("/none/none")


async def test_remove_follows_no_link(box: Sandbox, sh: Sh) -> None:
    await sh("mkdir -p /srv/a /srv/b && echo safe > /srv/b/f && ln -s /srv/b /srv/a/b")
    await sh("ln -s /srv/b /srv/direct")
    await box.remove("/srv/a")
    await box.remove("/srv/direct")
    assert await box.read_file("/srv/b/f") == b"safe\n"
    assert (await sh("test -L /srv/direct")).exit_code == 1
