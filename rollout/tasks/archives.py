"""Archives that ADD unpacks: tar, plain or compressed. Hostile ones are refused, not followed."""

from pathlib import Path

from rollout.errors import ConfigError, TreeRefused
from rollout.sandbox.archived import is_tar, tree_of_tar
from rollout.sandbox.base import TREE_LIMIT_ENTRIES
from rollout.tasks.trees import Budget
from rollout.types import Tree


def read_archive(file: Path, budget: Budget) -> Tree | None:
    """What the archive holds, owned by root when put; `None` when the file is no archive.

    ConfigError for what `tree_of_tar` refuses, and past the budget, which counts unpacked bytes.
    """
    left = budget.limit_bytes - budget.used_bytes
    try:
        with file.open("rb") as opened:
            if not is_tar(opened):
                return None
            most = TREE_LIMIT_ENTRIES - budget.entries
            tree = tree_of_tar(opened, limit_bytes=left, limit_entries=most)
    except (TreeRefused, OSError) as exc:
        raise ConfigError(
            f"ADD cannot unpack {file.name!r}: {exc}; {budget.whole} has room for "
            f"{left / (1 << 20):.1f} MB more {budget.way_out}"
        ) from exc
    for entry in tree.entries:
        budget.take(f"{file.name}: {entry.path}", len(entry.data))
    return tree
