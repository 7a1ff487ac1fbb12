"""Where a sweep's dataset lies, read without any code of ours, and how such a place fails."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import boto3

from tests.chaos.faulty_store import FAULTS, FaultyStore
from tests.s3_server import BUCKET

NAME = "chaos"
DISK_MB = 4


class Shelf(Protocol):
    @property
    def words(self) -> Sequence[str]:
        """Of the command line."""

    def names(self, prefix: str) -> list[str]:
        """Objects of the run, in order."""

    def read(self, path: str) -> bytes: ...

    def fail(self, kind: str, for_s: float) -> int:
        """Fail in one way for a while; how much was asked of it meanwhile, where that is known."""

    @property
    def kinds(self) -> Sequence[str]:
        """Ways to fail."""


class Folder:
    """On the disk of this machine, which does not fail."""

    kinds: Sequence[str] = ()

    def __init__(self, root: Path) -> None:
        self._root = root
        self.words = [f"store.uri={root}"]

    def names(self, prefix: str) -> list[str]:
        below = self._root / NAME
        found = (path for path in (below / prefix).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(below)) for path in found)

    def read(self, path: str) -> bytes:
        return (self._root / NAME / path).read_bytes()

    def fail(self, kind: str, for_s: float) -> int:
        raise AssertionError(f"a folder knows no {kind}")


class SmallDisk(Folder):
    """A disk that somebody else fills."""

    kinds = ("disk_full",)

    def fail(self, kind: str, for_s: float) -> int:
        ballast = self._root / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1))
        time.sleep(for_s)
        ballast.unlink()
        return 0


@contextmanager
def small_disk(root: Path) -> Iterator[SmallDisk]:
    """Of `DISK_MB`, mounted at `root`."""
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", root], check=True)
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", root], check=True)


class Bucket:
    """In S3, behind a store that fails on demand; read past it."""

    kinds = FAULTS

    def __init__(self, endpoint: str, faulty: FaultyStore, prefix: str) -> None:
        self._faulty, self._prefix = faulty, f"{prefix}/{NAME}/"
        self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint)
        self.words = [
            "store=s3",
            f"store.uri=s3://{BUCKET}/{prefix}",
            f"store.endpoint_url={faulty.url}",
        ]

    def names(self, prefix: str) -> list[str]:
        root = self._prefix + prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=root)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return [key.removeprefix(self._prefix) for key in keys]

    def read(self, path: str) -> bytes:
        found = self._client.get_object(Bucket=BUCKET, Key=self._prefix + path)
        data: bytes = found["Body"].read()
        return data

    def fail(self, kind: str, for_s: float) -> int:
        met = self._faulty.met
        self._faulty.fault = kind
        time.sleep(for_s)
        self._faulty.fault = None
        return self._faulty.met - met


@contextmanager
def bucket(endpoint: str) -> Iterator[Bucket]:
    """A prefix of its own in the bucket at `endpoint`."""
    faulty = FaultyStore(endpoint)
    try:
        yield Bucket(endpoint, faulty, os.urandom(8).hex())
    finally:
        faulty.close()
