"""What a sandbox of this engine wrote, held against a workspace: see `Engine.keep_only`."""

from collections.abc import Iterator

from rollout.sandbox.memory.files import File, FileSystem, Folder, Link, Node
from rollout.types import Change, Changes, Share, Workspace
from rollout.types.workspace import CHANGES_LIMIT


def changes(left: Folder, below: Folder, workspace: Workspace) -> Changes:
    """Where the tree that a sandbox left is not as the one below, outside of the workspace."""
    found: list[Change] = []
    for change in _changes(left, below, "", workspace):
        if len(found) >= CHANGES_LIMIT:
            return Changes(tuple(found), more=True)
        found.append(change)
    return Changes(tuple(found))


def keep_only(left: Folder, below: Folder, workspace: Workspace) -> Folder:
    """A tree of its own: the workspace as it was left, all else as it is below."""
    theirs, ours = FileSystem(left).copy_root(), FileSystem(below).copy_root()
    _merge(theirs, ours, "", workspace)
    return ours


def _changes(left: Folder, below: Folder, path: str, workspace: Workspace) -> Iterator[Change]:
    for name in sorted({*left.children, *below.children}):
        at = f"{path}/{name}"
        share = workspace.share(at)
        now, then = left.children.get(name), below.children.get(name)
        if share is Share.ALL:
            continue
        if isinstance(now, Folder) and isinstance(then, Folder):
            yield from _changes(now, then, at, workspace)
        elif now is None:
            yield Change(path=at, how="removed", kind="none")
        elif then is None or not _same(now, then):
            if share is Share.NONE or not isinstance(now, Folder):
                yield Change(path=at, how="changed" if then else "added", kind=_kind(now))
            if isinstance(now, Folder):
                yield from _changes(now, Folder(), at, workspace)


def _merge(theirs: Folder, ours: Folder, path: str, workspace: Workspace) -> None:
    for name in sorted({*theirs.children, *ours.children}):
        at = f"{path}/{name}"
        share, new = workspace.share(at), theirs.children.get(name)
        if share is Share.ALL and new is None:
            del ours.children[name]
        elif share is Share.ALL and new is not None:
            ours.children[name] = new
        elif share is Share.SOME and isinstance(new, Folder):
            old = ours.children.get(name)
            if not isinstance(old, Folder):
                if old is not None:
                    continue
                old = ours.children[name] = Folder(mode=0o755)
            _merge(new, old, at, workspace)


def _same(now: Node, then: Node) -> bool:
    if isinstance(now, File) and isinstance(then, File):
        return bytes(now.data) == bytes(then.data) and now.mode == then.mode
    if isinstance(now, Link) and isinstance(then, Link):
        return now.target == then.target
    return type(now) is type(then) and not isinstance(now, File | Link)


def _kind(node: Node) -> str:
    for kind, name in ((File, "file"), (Folder, "dir"), (Link, "link")):
        if isinstance(node, kind):
            return name
    return "other"
