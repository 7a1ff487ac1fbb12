"""A dataset in a folder. `link(2)` is the put-if-absent: it never replaces and never tears.

An object is written under `_tmp/`, synced, linked to its name and the folder synced. A kill at any
moment leaves at most a file in `_tmp/`, which the end of the run removes.
"""

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rollout.dataset.store_base import check_path, probe
from rollout.errors import StoreError

_ADVICE = {
    errno.ENOTDIR: "something on this path is not a folder; set store.uri to another one",
    errno.EEXIST: "something on this path is not a folder; set store.uri to another one",
    errno.EACCES: "this user may not write there; change its owner or store.uri",
    errno.EPERM: "the file system refuses it (no hard links?); set store.uri to another one",
    errno.EROFS: "the file system is read-only; set store.uri to another one",
    errno.ENOSPC: "the disk is full; free some space and start the run again",
    errno.EDQUOT: "the disk quota is used up; free some space and start the run again",
    errno.ENOENT: "the folder was removed or cannot be made; check store.uri",
}


class LocalStore:
    """A Store in a folder of a file system that has hard links."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self.uri = str(self.root)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self._put(path, io.BytesIO(data))

    def put_file_if_absent(self, path: str, source: Path) -> bool:
        with source.open("rb") as file:
            return self._put(path, file)

    def _put(self, path: str, source: BinaryIO) -> bool:
        target = self.root / check_path(path)
        with self._explained(f"write {path}"):
            temporary = self._write_temporary(source)
            try:
                _make_folders(target.parent)
                created = _link(temporary, target)
                _sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return created

    def get(self, path: str) -> bytes:
        with self._explained(f"read {path}", missing_ok=True):
            return (self.root / check_path(path)).read_bytes()

    def get_file(self, path: str, target: BinaryIO) -> None:
        source = self.root / check_path(path)
        with self._explained(f"read {path}", missing_ok=True), source.open("rb") as file:
            shutil.copyfileobj(file, target)

    def list(self, prefix: str, after: str = "") -> list[str]:
        with self._explained(f"list {prefix}"):
            return sorted(path for path in _files(self.root, prefix) if path > after)

    def delete(self, path: str) -> None:
        with self._explained(f"delete {path}"):
            (self.root / check_path(path)).unlink(missing_ok=True)

    def probe(self) -> None:
        with self._explained("make the folder"):
            _make_folders(self.root)
        probe(self)

    def close(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    def _write_temporary(self, source: BinaryIO) -> Path:
        _make_folders(self.root / "_tmp")
        temporary = self.root / "_tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    @contextlib.contextmanager
    def _explained(self, doing: str, *, missing_ok: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if missing_ok and isinstance(exc, FileNotFoundError):
                raise
            advice = _ADVICE.get(exc.errno or 0, "check the folder and its file system")
            raise StoreError(f"cannot {doing} in {self.uri}: {exc.strerror}: {advice}") from exc


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    return True


def _make_folders(folder: Path) -> None:
    """Like makedirs, but each new name is synced, so what is put inside survives a power cut."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(root: Path, prefix: str) -> Iterator[str]:
    """Names below `root` that start with `prefix`; folders that cannot hold one are not opened."""
    start = f"{root}/"
    for parent, folders, names in os.walk(root / prefix.rpartition("/")[0]):
        below = f"{parent}/".removeprefix(start)
        folders[:] = [name for name in folders if f"{below}{name}/".startswith(prefix)]
        yield from (below + name for name in names if (below + name).startswith(prefix))
