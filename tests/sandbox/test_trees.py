"""Which trees the host takes out of a sandbox, and gives into one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.trees import TreeReader, check_path, check_tree, tree_frames
from rollout.types import Tree, TreeEntry


def link(path: str, target: str) -> TreeEntry:
    return TreeEntry(path, "link", target=target)


def test_a_plain_tree_passes() -> None:
    check_tree(
        Tree(
            (
                TreeEntry("a", "dir"),
                TreeEntry("a/b", "file", data=b"x"),
                TreeEntry("no/parent/named", "file"),
                link("a/l", "../no/parent"),
                link("a/self", "."),
                link("dangling", "not/there"),
                link("round", "a/../no"),
            )
        )
    )


@pytest.mark.parametrize(
    "path",
    [
        *["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a" * 256],
        *["/".join("d" * 129), "/".join(["x" * 200] * 30), "\ud800"],
    ],
)
def test_paths_that_are_not_plain(path: str) -> None:
    with pytest.raises(TreeRefused):
        check_path(path)


@pytest.mark.parametrize(
    "entries",
    [
        (TreeEntry("a", "file"), TreeEntry("a", "file")),
        (TreeEntry("a", "dir"), TreeEntry("a", "dir")),
        (TreeEntry("a", "file"), TreeEntry("a/b", "file")),
        (TreeEntry("a/b/c", "file"), link("a", "x")),
        (TreeEntry("a", "device"),),
        (TreeEntry("a", "other"),),
        (link("a", ""),),
        (link("a", "/etc/passwd"),),
        (link("a", ".."),),
        (link("a", "x\0y"),),
        (link("d/a", "../../x"),),
        (link("d/a", "../x/../../y"),),
        (link("d/up", ".."), link("z", "d/up/../../x")),
        (link("p/q/r", "../.."), link("z", "p/q/r/../x")),
        (link("rt/x", ".."), link("r", "rt"), link("z", "r/x/../y")),
        (link("a", "x/" * 2100),),
        (link("a", "x/" * 129 + ".."),),
    ],
)
def test_trees_that_break_a_rule(entries: tuple[TreeEntry, ...]) -> None:
    with pytest.raises(TreeRefused):
        check_tree(Tree(entries))


parts = st.text(min_size=1, max_size=5).filter(
    lambda part: part not in (".", "..") and not set(part) & {"/", "\0"}
)
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(paths, st.binary(max_size=100_000), max_size=6))
def test_trees_round_trip_through_frames(files: dict[str, bytes]) -> None:
    tree = Tree(tuple(TreeEntry(path, "file", 0o640, data) for path, data in sorted(files.items())))
    try:
        check_tree(tree)
        stream = b"".join(tree_frames(tree))
    except SandboxError:
        return
    reader = TreeReader(limit_bytes=1 << 20, limit_entries=10)
    for kind, payload in wire.Decoder().feed(stream):
        if kind == wire.In.ENTRY:
            reader.entry(wire.read_entry(payload))
        elif kind == wire.In.DATA:
            reader.data(payload)
    found = reader.tree()
    assert found.files() == files
    assert {entry.mode for entry in found.entries} <= {0o640}


def test_what_comes_out_gives_no_rights() -> None:
    reader = TreeReader(limit_bytes=1, limit_entries=1)
    reader.entry(wire.EntryHead("file", 0o6755, b"su", b""))
    assert reader.tree().entries[0].mode == 0o755
