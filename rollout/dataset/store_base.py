"""What the dataset needs of a place to keep objects, and how a place is tried out.

One operation carries the whole protocol: put if absent. Whoever creates the next log entry owns
it; everyone else learns that something was there.
"""

import uuid
from pathlib import Path
from typing import BinaryIO, Protocol

from rollout.errors import StoreError

PATH_BYTES = 900
"""Longest path below a run's root; S3 allows 1,024 bytes with the prefix."""

NAME_BYTES = 255


class Store(Protocol):
    """Objects below one root, named by relative POSIX paths. Blocking; safe to use from threads.

    Anything but the answers named here is a StoreError that says what to change.
    """

    uri: str
    """The root: an absolute path, or `s3://bucket/prefix`."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create whole or not at all, durably. False: something was there, and it stays.

        After a lost reply a retry may find one's own object: who gets False compares content.
        """

    def put_file_if_absent(self, path: str, source: Path) -> bool:
        """The same with a file's content, which is never whole in memory."""

    def get(self, path: str) -> bytes:
        """Raises FileNotFoundError when nothing has that name."""

    def get_file(self, path: str, target: BinaryIO) -> None:
        """The same into an open file, piece by piece."""

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Paths that start with `prefix` and sort after `after`, in order."""

    def delete(self, path: str) -> None:
        """Gone afterwards, whether or not it was there."""

    def probe(self) -> None:
        """Try out all of the above; StoreError when this store cannot hold a dataset."""

    def close(self) -> None:
        """Give connections back. Idempotent."""


def check_path(path: str) -> str:
    """`path`, or a StoreError when it could leave the root or be read in two ways."""
    parts = path.split("/")
    if (
        not path
        or not path.isprintable()
        or "\\" in path
        or any(part in ("", ".", "..") or len(part.encode()) > NAME_BYTES for part in parts)
        or len(path.encode()) > PATH_BYTES
    ):
        raise StoreError(
            f"{path[:200]!r} is no name for an object: it must be relative and printable, without "
            f"empty, `.` or `..` parts or backslashes, and at most {PATH_BYTES} bytes long"
        )
    return path


def put_same(store: Store, path: str, data: bytes) -> None:
    """Put an object whose name says its content; that it is there already is as good."""
    if not store.put_if_absent(path, data) and store.get(path) != data:
        raise StoreError(f"{store.uri} holds other content under {path}; remove that object")


def probe(store: Store) -> None:
    """Put a small object twice, read, list and remove it; StoreError when any of it is wrong."""
    path, data = f"_probe/{uuid.uuid4().hex}", b"first"
    try:
        if not store.put_if_absent(path, data) and store.get(path) != data:
            raise StoreError(f"{store.uri}: a new object was refused as already there ({path})")
        replaced = store.put_if_absent(path, b"second")
        if replaced or store.get(path) != data:
            raise StoreError(
                f"{store.uri} ignores `If-None-Match: *`: a second put of one name was accepted. "
                "Without it two coordinators could both commit; use a store that has conditional "
                "writes (AWS S3, MinIO, Ceph, R2, …) or a local folder"
            )
        if path not in store.list("_probe/"):
            raise StoreError(f"{store.uri}: an object just written ({path}) is not listed")
    finally:
        store.delete(path)
