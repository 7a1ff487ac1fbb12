"""From the bytes of an object to a tree."""

from typing import IO

from rollout.errors import TreeRefused
from rollout.objects.archive import LIMIT_BYTES, LIMIT_ENTRIES
from rollout.sandbox.archived import is_tar, tree_of_tar
from rollout.sandbox.steps import BLOB
from rollout.types import Tree, TreeEntry


def tree_of(
    file: IO[bytes], *, limit_bytes: int = LIMIT_BYTES, limit_entries: int = LIMIT_ENTRIES
) -> Tree:
    """What a tar holds, as `tree_of_tar`, or of anything else a tree with the one entry `blob`."""
    if is_tar(file):
        return tree_of_tar(file, limit_bytes=limit_bytes, limit_entries=limit_entries)
    return Tree((TreeEntry(BLOB, "file", 0o644, _whole(file, limit_bytes)),))


def _whole(file: IO[bytes], limit_bytes: int) -> bytes:
    data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise TreeRefused(f"more than {limit_bytes} bytes in one file")
    return data
