"""What layers show when they lie over one another, told without mounting them.

Only names: the kernel's rules for a whiteout, an opaque folder and a moved one. Used to look at a
few places of a base before a sandbox stands on it, by the host, so no link is followed.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.sandbox.export import OPAQUE, REDIRECT


@dataclass(frozen=True, slots=True)
class Seen:
    """A name as a sandbox would see it, with owners as inside."""

    mode: int
    uid: int
    gid: int

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


ROOT = Seen(stat.S_IFDIR | 0o755, 0, 0)


class Layered:
    """Folders, topmost first, each with the first uid of its owners' range."""

    def __init__(self, layers: Sequence[tuple[int, Path]]) -> None:
        self._layers = layers

    def look(self, path: str) -> Seen | None:
        """What is at the relative `path`. `None`: nothing, or something no folder above it."""
        for uid_base, folder in self._layers:
            found, goes_on = _in_layer(folder, path.split("/"))
            if found is not None:
                return Seen(found.st_mode, found.st_uid - uid_base, found.st_gid - uid_base)
            if not goes_on:
                return None
        return None

    def folders(self, path: str) -> list[tuple[str, Seen | None]]:
        """Each folder above `path`, from the top down, and what is there."""
        parts = path.split("/")[:-1]
        paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        return [(path, self.look(path)) for path in paths]


def _in_layer(folder: Path, parts: Sequence[str]) -> tuple[os.stat_result | None, bool]:
    """What one layer has there, and whether what lies below it counts at all."""
    at, opaque = folder, False
    for number, part in enumerate(parts, start=1):
        at /= part
        try:
            found = at.lstat()
        except FileNotFoundError:
            return None, not opaque
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return None, False
        if number == len(parts):
            return found, False
        if not stat.S_ISDIR(found.st_mode):
            return None, False
        marks = os.listxattr(at, follow_symlinks=False)
        opaque = opaque or OPAQUE in marks or REDIRECT in marks
    return None, not opaque
