"""What a container was left with, as the daemon tells it, held against a workspace."""

import posixpath
from collections.abc import Sequence

from rollout.sandbox.survey import COVERED
from rollout.types import Change, Changes, Share, Workspace
from rollout.types.workspace import CHANGES_LIMIT

Diff = tuple[tuple[str, str], ...]
"""Path and how it changed: `added`, `changed` or `removed`, with all folders on the way."""

HOW = ("changed", "added", "removed")
"""As the daemon counts them."""
DAEMONS = frozenset({"/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf"})
"""What the daemon itself puts into containers."""
DIFF_LIMIT = 4 * CHANGES_LIMIT
"""Of the names of one container; what is beyond is not taken over from it."""


def diff_of(told: Sequence[tuple[str, int]]) -> Diff:
    """Sorted, so that what is left out is the same each time."""
    return tuple((path, HOW[kind]) for path, kind in sorted(told)[:DIFF_LIMIT])


def changes(diff: Diff, workspace: Workspace) -> Changes:
    """All outside of the workspace. The daemon tells no kinds: what holds nothing is a file."""
    folders = {posixpath.dirname(path) for path, _ in diff}
    found = []
    for path, how in diff:
        share = workspace.share(path)
        if share is Share.ALL or path in DAEMONS or path.split("/")[1] in COVERED:
            continue
        if path in folders and (how == "changed" or share is Share.SOME):
            continue
        kind = "none" if how == "removed" else "dir" if path in folders else "file"
        found.append(Change(path=path, how=how, kind=kind))
    return Changes(tuple(found[:CHANGES_LIMIT]), more=len(found) > CHANGES_LIMIT)


def roots(diff: Diff, workspace: Workspace) -> list[str]:
    """The topmost paths that are all the workspace's and hold a change."""
    found = dict.fromkeys(filter(None, (_root(path, workspace) for path, _ in diff)))
    return list(found)


def _root(path: str, workspace: Workspace) -> str:
    at = ""
    for name in path.strip("/").split("/"):
        at += f"/{name}"
        share = workspace.share(at)
        if share is not Share.SOME:
            return at if share is Share.ALL else ""
    return ""
