"""COPY and ADD: which files of a build context go where."""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rollout.errors import ConfigError
from rollout.tasks.archives import read_archive
from rollout.tasks.dockerignore import glob_regex
from rollout.tasks.problems import NeedsDaemon
from rollout.tasks.trees import Budget, read_file, read_tree
from rollout.types import BuildStep, Tree, TreeEntry

_FLAGS = ("chown", "chmod", "link")
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://|git@")
_FOLDERS = frozenset(
    {
        *("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc"),
        *("/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib"),
        *("/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/share", "/usr/sbin"),
        *("/usr/share", "/usr/src", "/var", "/var/lib", "/var/log", "/var/tmp"),
    }
)
"""What every base has: a file copied to one of these goes into it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY or ADD, its variables put in."""

    verb: str
    sources: tuple[str, ...]
    dest: str
    flags: Mapping[str, str]
    workdir: str
    made: frozenset[str]
    """Folders that earlier lines made."""
    inline: Mapping[str, str] = field(default_factory=dict)
    """Name to content of the sources that stand in the Dockerfile itself."""


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    """Relative to the context, as Docker would call it."""
    path: Path
    """The file or folder itself, links followed, inside the context."""


def copy_step(
    copy: Copy, context: Path, hidden: Callable[[str], bool], budget: Budget
) -> BuildStep:
    """The one `put` that a COPY or ADD comes to; ConfigError says what is wrong with it."""
    _check_flags(copy)
    words = [word for word in copy.sources if _inline_name(word) not in copy.inline]
    found = [source for word in words for source in _find(word, context, hidden)]
    dest = posixpath.normpath(posixpath.join(copy.workdir, copy.dest))
    into = _is_folder(copy, dest)
    count = len(found) + len(copy.inline)
    if count > 1 and not into:
        raise ConfigError(
            f"{copy.verb} of {count} sources to {copy.dest!r}: "
            "with more than one, the destination must end with /"
        )
    entries: dict[str, TreeEntry] = {}
    folder, _, name = dest.rpartition("/") if not into else (dest, "", "")
    for source in found:
        for entry in _entries(copy, source, context, hidden, budget, name):
            entries[entry.path] = entry
    for inline, text in copy.inline.items():
        budget.take(inline, len(text.encode()))
        entries[name or inline] = TreeEntry(name or inline, "file", data=text.encode())
    if any(source.path.is_dir() for source in found) and not into:
        folder = dest
    tree = _with_mode(Tree(tuple(entries.values())), copy.flags.get("chmod", ""))
    owner = copy.flags.get("chown", "")
    return BuildStep(op="put", dest=folder or "/", tree=tree, owner=owner)


def _inline_name(word: str) -> str:
    return word.partition("<<")[2].removeprefix("-")


def _check_flags(copy: Copy) -> None:
    for flag in copy.flags:
        if flag not in _FLAGS:
            raise NeedsDaemon(f"{copy.verb} --{flag}")
    for word in copy.sources:
        if _URL.match(word):
            raise NeedsDaemon(f"{copy.verb} of {word!r}")


def _is_folder(copy: Copy, dest: str) -> bool:
    """Whether a file goes *into* the destination rather than becoming it."""
    last = copy.dest.rpartition("/")[2]
    if last in ("", ".", ".."):
        return True
    made = {folder for path in copy.made for folder in _and_parents(path)}
    return dest in _FOLDERS or dest in made


def _and_parents(path: str) -> Iterator[str]:
    while path not in ("/", ""):
        yield path
        path = posixpath.dirname(path)


def _find(word: str, context: Path, hidden: Callable[[str], bool]) -> list[_Source]:
    """The sources one word names: itself, or what its pattern matches."""
    name = posixpath.normpath(word.lstrip("/") or ".")
    if name == ".." or name.startswith("../"):
        raise ConfigError(f"the source {word!r} is outside of the build context")
    names = sorted(_matches(context, name)) if re.search(r"[*?\[]", name) else [name]
    sources = (_Source(match, _inside(context, match)) for match in names)
    found = [
        source for source in sources if source.path.exists() and _visible(source, context, hidden)
    ]
    if not found:
        why = "is hidden by .dockerignore" if hidden(name) else "is not in the build context"
        raise ConfigError(f"the source {word!r} {why}")
    return found


def _visible(source: _Source, context: Path, hidden: Callable[[str], bool]) -> bool:
    """A hidden folder still counts when something below it is shown again by a `!` pattern."""
    if source.name == "." or not hidden(source.name):
        return True
    return any(
        not hidden(child.relative_to(context).as_posix())
        for child in source.path.rglob("*")
        if not child.is_dir()
    )


def _matches(context: Path, pattern: str) -> Iterator[str]:
    """Names below the context that fit, one pattern for each part of the path, as in Go."""
    found = [""]
    for part in pattern.split("/"):
        fits = glob_regex(part.replace("**", "*"))
        below = (prefix for prefix in found if (context / prefix).is_dir())
        found = [
            posixpath.join(prefix, child.name)
            for prefix in below
            for child in (context / prefix).iterdir()
            if fits.fullmatch(child.name)
        ]
    yield from found


def _inside(context: Path, name: str) -> Path:
    path = (context / name).resolve()
    if not path.is_relative_to(context):
        raise ConfigError(f"the source {name!r} is a link out of the build context")
    return path


def _entries(
    copy: Copy,
    source: _Source,
    context: Path,
    hidden: Callable[[str], bool],
    budget: Budget,
    name: str,
) -> Iterator[TreeEntry]:
    """What one source puts below the step's folder; `name` is a single file's new name."""
    if source.path.is_dir():
        inner = source.path.relative_to(context).as_posix()
        yield from read_tree(
            source.path, budget, skip=lambda path: hidden(posixpath.normpath(f"{inner}/{path}"))
        ).entries
        return
    if copy.verb == "ADD" and (unpacked := read_archive(source.path, budget)) is not None:
        if name:
            raise ConfigError(f"ADD unpacks {source.name!r}: the destination must end with /")
        yield from unpacked.entries
        return
    yield read_file(source.path, name or posixpath.basename(source.name), budget)


def _with_mode(tree: Tree, chmod: str) -> Tree:
    if not chmod:
        return tree
    if not re.fullmatch(r"0?[0-7]{3}", chmod):
        raise ConfigError(f"--chmod={chmod}: use three octal digits, such as 755")
    mode = int(chmod, 8)
    return Tree(
        tuple(
            entry if entry.kind == "link" else replace(entry, mode=mode) for entry in tree.entries
        )
    )
