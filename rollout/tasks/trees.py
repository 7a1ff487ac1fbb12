"""Folders of a task, read by value.

File modes are reduced to what git keeps (the executable bit), so that a task has one digest
whatever machine it was checked out on. Python's bytecode caches are left out for the same reason.
"""

import dataclasses
import importlib.util
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import ConfigError
from rollout.sandbox.base import TREE_LIMIT_ENTRIES
from rollout.tasks.problems import nearest
from rollout.types import Tree, TreeEntry

PACKAGE_PREFIX = "pkg://"
_CACHES = ("__pycache__",)


@dataclass(slots=True)
class Budget:
    """What all folders of one task may still hold."""

    limit_bytes: int
    used_bytes: int = 0
    entries: int = 0
    whole: str = "the task"
    way_out: str = "(task.size_limit_mb); bake large files into the base image"

    def take(self, name: str, size_bytes: int) -> None:
        """Count one entry before it is read; ConfigError when it is too much."""
        self.used_bytes += size_bytes
        self.entries += 1
        if self.used_bytes > self.limit_bytes:
            raise ConfigError(
                f"{name} brings {self.whole} past {self.limit_bytes / (1 << 20):g} MB "
                f"{self.way_out}"
            )
        if self.entries > TREE_LIMIT_ENTRIES:
            raise ConfigError(f"more than {TREE_LIMIT_ENTRIES} files and folders")


def locate(key: str, path: str) -> Path:
    """The folder or file a config means; `pkg://package/sub/folder` looks inside a package."""
    if not isinstance(path, str) or not path:
        raise ConfigError(f"{key}: saw {path!r}; use a path or {PACKAGE_PREFIX}package/folder")
    found = _in_package(key, path) if path.startswith(PACKAGE_PREFIX) else Path(path).expanduser()
    if not found.exists():
        beside = [p.name for p in found.parent.iterdir()] if found.parent.is_dir() else []
        raise ConfigError(f"{key}: {path!r} does not exist{nearest(found.name, beside)}")
    return found


def _in_package(key: str, path: str) -> Path:
    package, _, below = path.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(f"{key}: {path!r} names no installed package ({package!r})")
    return Path(spec.origin).parent / below


def read_tree(
    folder: Path,
    budget: Budget,
    *,
    skip: Callable[[str], bool] = lambda path: False,
) -> Tree:
    """Everything below `folder`. `skip` is asked with each relative path of a file or link.

    ConfigError for links that leave the folder, for anything that is no file, folder or link,
    and past the budget. A folder of which all is skipped is left out.
    """
    return Tree(tuple(sorted(_walk(folder, "", budget, skip), key=lambda entry: entry.path)))


def _walk(
    folder: Path, prefix: str, budget: Budget, skip: Callable[[str], bool]
) -> Iterator[TreeEntry]:
    for child in sorted(folder.iterdir()):
        path = prefix + _text(child.name)
        if child.is_symlink():
            if not skip(path):
                yield _link(child, path, budget)
        elif child.is_dir():
            yield from _folder(child, path, budget, skip)
        elif not skip(path) and child.suffix != ".pyc":
            yield read_file(child, path, budget)


def _folder(
    child: Path, path: str, budget: Budget, skip: Callable[[str], bool]
) -> Iterator[TreeEntry]:
    if child.name in _CACHES:
        return
    below = list(_walk(child, path + "/", budget, skip))
    if below or not skip(path):
        budget.take(path, 0)
        yield TreeEntry(path, "dir", 0o755)
        yield from below


def read_file(file: Path, path: str, budget: Budget) -> TreeEntry:
    """One regular file as the entry `path`."""
    info = file.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{path} is no file, folder or link and cannot be part of a task")
    budget.take(path, info.st_size)
    return TreeEntry(path, "file", 0o755 if info.st_mode & 0o100 else 0o644, file.read_bytes())


def _link(link: Path, path: str, budget: Budget) -> TreeEntry:
    target = str(link.readlink())
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith("/") or end == ".." or end.startswith("../"):
        raise ConfigError(f"the link {path} -> {target} leaves its folder; copy the file instead")
    budget.take(path, 0)
    return TreeEntry(path, "link", 0o777, target=_text(target))


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the file name {os.fsencode(name)!r} is not UTF-8") from None
    return name


def with_executable(tree: Tree, name: str) -> Tree:
    """The same tree, `name` made executable, as Harbor does before it runs a script."""
    return Tree(
        tuple(
            dataclasses.replace(entry, mode=0o755) if entry.path == name else entry
            for entry in tree.entries
        )
    )


def script_argv(tree: Tree, name: str, folder: str) -> list[str]:
    """How to run the tree's script once it lies in `folder`; without `#!` line by bash."""
    path = f"{folder}/{name}"
    return [path] if tree.files().get(name, b"").startswith(b"#!") else ["bash", path]
