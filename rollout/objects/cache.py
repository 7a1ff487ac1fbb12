"""Copies of objects on this machine, so that each is fetched once; the folder stays below a limit.

Several processes may share it: a copy appears whole by rename, and one that is removed while
somebody reads it lives on for that reader.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

UNFINISHED_S = 3600.0
"""A copy that was begun so long ago belongs to nobody."""


class Cache:
    """A folder that is made when it is first needed, readable by its owner alone."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes

    def open(self, name: str, load: Callable[[BinaryIO], None]) -> BinaryIO:
        """The copy called `name`, made by `load` where it is missing; the caller closes it."""
        path = self.folder / name
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return self._loaded(path, load)
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def forget(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def _loaded(self, path: Path, load: Callable[[BinaryIO], None]) -> BinaryIO:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.folder / f".{uuid.uuid4().hex}"
        try:
            with unfinished.open("xb") as target:
                load(target)
            file = unfinished.open("rb")
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._shrink(path.name)
        return file

    def _shrink(self, newest: str) -> None:
        copies = sorted(self._copies(), key=lambda copy: copy[1])
        total = sum(size for _, _, size in copies)
        for path, at_s, size in copies:
            begun = path.name.startswith(".")
            if begun and time.time() - at_s < UNFINISHED_S:
                continue
            if begun or (total > self._limit_bytes and path.name != newest):
                path.unlink(missing_ok=True)
                total -= size

    def _copies(self) -> list[tuple[Path, float, int]]:
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                info = path.stat()
                found.append((path, info.st_mtime, info.st_size))
        return found
