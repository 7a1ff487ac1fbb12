"""What a sandbox wrote, held against a workspace: what lies outside of it, and a layer without it.

Works on the folders that an overlay wrote to, when the sandbox has ended and nobody writes to them
any more. A whiteout is a device 0:0; a folder that hides what lies below it, or that was moved, is
marked by an extended attribute.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollout.sandbox.survey import COVERED
from rollout.types import Change, Changes, Share, Workspace
from rollout.types.workspace import CHANGES_LIMIT

HIDES = tuple(f"{space}.overlay.opaque" for space in ("trusted", "user"))
MOVED = tuple(f"{space}.overlay.redirect" for space in ("trusted", "user"))
"""As root's overlays and as an ordinary user's mark them."""
MAX_DEPTH = 128

Bases = Sequence[tuple[int, Path]]
"""What a folder stood on, topmost first: (first uid, folder)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two overlays of a sandbox."""

    at: str
    """Where it was mounted: `` or `/usr`."""
    folder: Path
    bases: Bases


def changes(parts: Sequence[Part], workspace: Workspace) -> Changes:
    """All that was written outside of the workspace. Blocks."""
    found: list[Change] = []
    for part in parts:
        for change in _outside(part, "", workspace, 0):
            if len(found) >= CHANGES_LIMIT:
                return Changes(tuple(found), more=True)
            found.append(change)
    return Changes(tuple(found))


def _outside(part: Part, name: str, workspace: Workspace, depth: int) -> Iterator[Change]:
    """Below the folder `name`, of which not all is the workspace's."""
    for child in _names(part.folder / name):
        path = f"{name}/{child}" if name else child
        inside = f"{part.at}/{path}"
        if inside[1:] in COVERED or workspace.share(inside) is Share.ALL:
            continue
        status, below = (part.folder / path).lstat(), _in_bases(part.bases, path)
        if _is_whiteout(status):
            yield Change(path=inside, how="removed", kind="none")
        elif not stat.S_ISDIR(status.st_mode):
            yield Change(path=inside, how="changed" if below else "added", kind=_kind(status))
        else:
            if below and (not stat.S_ISDIR(below.status.st_mode) or _marks(part.folder / path)):
                yield Change(path=inside, how="changed", kind="dir")
            elif not below and workspace.share(inside) is Share.NONE:
                yield Change(path=inside, how="added", kind="dir")
            if depth < MAX_DEPTH:
                yield from _outside(part, path, workspace, depth + 1)


def prune(parts: Sequence[Part], uid_base: int, workspace: Workspace, aside: Path) -> None:
    """Take all that is outside of the workspace out of the folders, and put it `aside`. Blocks.

    `aside` is a new folder on the same file system. Folders that stay only for what is below them
    get back the owner and mode that they had below.
    """
    aside.mkdir(mode=0o700)
    pruning = _Pruning(uid_base, workspace, aside)
    for part in parts:
        pruning.folder(part, "")


class _Pruning:
    def __init__(self, uid_base: int, workspace: Workspace, aside: Path) -> None:
        self._uid_base = uid_base
        self._workspace = workspace
        self._aside = aside
        self._taken = 0

    def folder(self, part: Part, name: str) -> None:
        folder = part.folder / name
        if os.geteuid() != 0:
            folder.chmod(0o700)  # an ordinary user must be able to look into it
        hid_all = bool(name) and _unmark(folder)
        for child in _names(folder):
            path = f"{name}/{child}" if name else child
            if path in COVERED and not part.at:
                continue
            share = self._workspace.share(f"{part.at}/{path}")
            is_folder = stat.S_ISDIR((folder / child).lstat().st_mode)
            if share is Share.SOME and is_folder:
                if hid_all:
                    _mark(folder / child)
                self.folder(part, path)
            elif share is not Share.ALL:
                self._take(folder / child)
            elif hid_all and is_folder:
                _mark(folder / child)
        self._give_back(part, name)

    def _take(self, path: Path) -> None:
        target = self._aside / str(self._taken)
        self._taken += 1
        try:
            path.rename(target)
        except PermissionError:
            path.chmod(0o700)
            path.rename(target)

    def _give_back(self, part: Part, name: str) -> None:
        folder = part.folder / name
        below = _in_bases(part.bases, name)
        if below is None or not stat.S_ISDIR(below.status.st_mode):
            folder.chmod(0o755)
            return
        if os.geteuid() == 0:
            shift = self._uid_base - below.uid_base
            os.chown(folder, below.status.st_uid + shift, below.status.st_gid + shift)
        folder.chmod(stat.S_IMODE(below.status.st_mode))


@dataclass(frozen=True, slots=True)
class _Below:
    uid_base: int
    status: os.stat_result


def _in_bases(bases: Bases, name: str) -> _Below | None:
    """What the layers below show at `name`, found by plain names alone."""
    names = [part for part in name.split("/") if part]
    for uid_base, folder in bases:
        status, hidden = _walk(folder, names)
        if status is not None:
            return None if _is_whiteout(status) else _Below(uid_base, status)
        if hidden:
            return None
    return None


def _walk(folder: Path, names: Sequence[str]) -> tuple[os.stat_result | None, bool]:
    """What one layer has there, following no link; and if nothing, whether it hides the others."""
    at, hidden = folder, False
    for number, name in enumerate(["", *names]):
        at = at / name
        try:
            status = at.lstat()
        except OSError:
            return None, hidden
        if number == len(names):
            return status, True
        if not stat.S_ISDIR(status.st_mode):
            return None, True
        hidden = hidden or (number > 0 and bool(_marks(at)))
    return None, hidden


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(entry.name for entry in found)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _kind(status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "link" if stat.S_ISLNK(status.st_mode) else "other"


def _marks(folder: Path) -> list[str]:
    with suppress(OSError):
        return [
            name for name in os.listxattr(folder, follow_symlinks=False) if name in (*HIDES, *MOVED)
        ]
    return []


def _unmark(folder: Path) -> bool:
    """Whether it hid what lies below it."""
    marks = _marks(folder)
    for name in marks:
        os.removexattr(folder, name, follow_symlinks=False)
    return bool(marks)


def _mark(folder: Path) -> None:
    """Let it go on hiding what lies below, as the folder above it did."""
    if not _marks(folder):
        name = HIDES[0] if os.geteuid() == 0 else HIDES[1]
        os.setxattr(folder, name, b"y", follow_symlinks=False)


def parts_of(folders: Mapping[str, Path], root: Bases, usr: Bases) -> tuple[Part, ...]:
    """`folders`: a layer's own `root` and maybe `usr`."""
    made = [Part("", folders["root"], root)]
    if "usr" in folders:
        made.append(Part("/usr", folders["usr"], usr))
    return tuple(made)
