"""The object store: put, read, list; and the `Objects` that engines know.

sha256/<hex>         the bytes
info/<hex>.json      what it was called, its kind and size; for people
shared/<name>        the id of what was shared under a name: the first to write it wins
"""

import asyncio
import hashlib
import json
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from rollout.dataset.store import LocalStore, Store
from rollout.errors import BuildError, ConfigError, StoreError, TreeRefused
from rollout.objects.archive import LIMIT_BYTES, pack_folder, pack_tree
from rollout.objects.cache import Cache
from rollout.objects.unpack import tree_of
from rollout.sandbox.archived import is_tar
from rollout.types import Tree

ID = re.compile(r"sha256:[0-9a-f]{64}")
STORED_LIMIT_BYTES = 4 << 30
"""Of one object: S3 takes no more than 5 GB at once."""
TREES_BYTES = 256 << 20
"""Of unpacked objects kept in memory, so that a crowd of sandboxes unpacks each once."""
CHUNK_BYTES = 1 << 20
OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What is known of an object without reading it."""

    id: str
    kind: str = ""
    """`tar` or `blob`; empty where nobody wrote it down."""
    size_bytes: int = -1
    """As stored; -1 where nobody wrote it down."""
    name: str = ""
    """Of the file or folder that was put first."""
    created_at: str = ""


class ObjectStore:
    """Objects in a store. What is not async blocks: callers on an event loop use a thread."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._made: dict[str, str] = {}
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._unpacking: dict[str, asyncio.Task[Tree]] = {}

    @property
    def uri(self) -> str:
        return self._store.uri

    def close(self) -> None:
        self._store.close()

    # ---------------------------------------------------------------- in

    def put_path(self, path: Path, on_bytes: OnBytes = lambda count: None) -> str:
        """The id of a file, or of a folder as a tar, now in the store. ConfigError if it cannot be.

        on_bytes: told how many bytes were read since the last time.
        """
        if path.is_dir():
            return self._put(lambda target: pack_folder(path, target, on_bytes), path.name)
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file or folder")
        return self._put(lambda target: _copy(path, target, LIMIT_BYTES, on_bytes), path.name)

    def put_tree(self, tree: Tree, name: str = "") -> str:
        return self._put(lambda target: pack_tree(tree, target), name)

    def put_bytes(self, data: bytes, name: str = "") -> str:
        return self._put(lambda target: _write(target, data), name)

    def _put(self, write: Callable[[BinaryIO], None], name: str) -> str:
        # Staged, so that the bytes that are hashed are those that are stored.
        with tempfile.TemporaryDirectory(prefix="rollout-object-") as folder:
            staged = Path(folder, "object")
            with staged.open("w+b") as file:
                write(file)
                file.flush()
                size = file.tell()
                digest = _digest(file)
                kind = "tar" if is_tar(file) else "blob"
            self._store.put_file_if_absent(f"sha256/{digest}", staged)
        info = Info(
            id=f"sha256:{digest}",
            kind=kind,
            size_bytes=size,
            name=name if name.isprintable() else ascii(name),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._store.put_if_absent(f"info/{digest}.json", json.dumps(asdict(info)).encode())
        return info.id

    # ---------------------------------------------------------------- out

    def info(self, object_id: str) -> Info:
        """ConfigError when there is no such object."""
        digest = checked_id(object_id).removeprefix("sha256:")
        if f"sha256/{digest}" not in self._store.list(f"sha256/{digest}"):
            raise ConfigError(f"{object_id} is not in {self.uri}; `objects put` prints ids")
        return self._info(digest)

    def infos(self) -> list[Info]:
        """Of every object, by id."""
        digests = [path.removeprefix("sha256/") for path in self._store.list("sha256/")]
        return [self._info(digest) for digest in digests]

    def full_id(self, prefix: str) -> str:
        """The one id that begins so, with or without `sha256:`; ConfigError for none or several."""
        digits = prefix.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{1,64}", digits):
            raise ConfigError(f"{prefix!r} is no id: sha256:… and hex digits, as put prints them")
        found = [path.removeprefix("sha256/") for path in self._store.list(f"sha256/{digits}")]
        if len(found) != 1:
            how = "no object" if not found else f"{len(found)} objects"
            raise ConfigError(f"{self.uri} holds {how} whose id begins with {digits}")
        return f"sha256:{found[0]}"

    def _info(self, digest: str) -> Info:
        try:
            told = json.loads(self._store.get(f"info/{digest}.json"))
            return Info(**{**told, "id": f"sha256:{digest}"})
        except (FileNotFoundError, ValueError, TypeError):
            return Info(id=f"sha256:{digest}")

    def get(self, object_id: str, target: Path) -> None:
        """Write the stored bytes to a new file, checked. BuildError when missing or damaged."""
        with self._opened(object_id) as file, target.open("xb") as copy:
            while piece := file.read(CHUNK_BYTES):
                copy.write(piece)

    def read_tree(self, object_id: str) -> Tree:
        """As `tree`, blocking and not remembered."""
        try:
            with self._opened(object_id) as file:
                return tree_of(file)
        except TreeRefused as exc:
            raise BuildError(f"object {object_id}: {exc}") from exc

    def _opened(self, object_id: str) -> BinaryIO:
        """The stored bytes, found to be what the id says; the caller closes the file."""
        digest = checked_id(object_id, BuildError).removeprefix("sha256:")
        try:
            file = self._found(digest)
        except FileNotFoundError:
            raise BuildError(
                f"object {object_id} is not in {self.uri}: put it there, or set objects.uri"
            ) from None
        except (StoreError, OSError) as exc:
            raise BuildError(f"object {object_id}: {exc}") from exc
        if _digest(file) == digest:
            return file
        file.close()
        self._cache.forget(digest)
        raise BuildError(
            f"object {object_id}: its content in {self.uri} is another one (damaged, or written "
            f"by somebody else); remove sha256/{digest} there and put it again"
        )

    def _found(self, digest: str) -> BinaryIO:
        if isinstance(self._store, LocalStore):
            return (self._store.root / "sha256" / digest).open("rb")
        return self._cache.open(digest, lambda to: self._store.get_file(f"sha256/{digest}", to))

    # ---------------------------------------------------------------- names

    def linked(self, name: str) -> str | None:
        """The id that was shared under `name`."""
        try:
            found = self._store.get(f"shared/{name}").decode(errors="replace")
        except FileNotFoundError:
            return None
        if not ID.fullmatch(found):
            raise StoreError(f"{self.uri}/shared/{name} holds no id; remove it")
        return found

    def link(self, name: str, object_id: str) -> str:
        """Share an object under `name`, for good; the id that stands there, whoever was first."""
        self._store.put_if_absent(f"shared/{name}", checked_id(object_id).encode())
        return self.linked(name) or object_id

    # ---------------------------------------------------------------- for engines

    async def tree(self, object_id: str) -> Tree:
        """See `Objects`. Each object is read once, however many ask at the same time."""
        if object_id in self._trees:
            self._trees.move_to_end(object_id)
            return self._trees[object_id]
        task = self._unpacking.get(object_id)
        if task is None:
            task = asyncio.create_task(self._remembered(object_id))
            self._unpacking[object_id] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _remembered(self, object_id: str) -> Tree:
        try:
            tree = await asyncio.to_thread(self.read_tree, object_id)
        finally:
            del self._unpacking[object_id]
        self._trees[object_id] = tree
        while sum(each.size_bytes for each in self._trees.values()) > TREES_BYTES:
            self._trees.popitem(last=False)
        return tree

    async def fetch(self, name: str, target: Path) -> bool:
        """See `Objects`. The content is checked against the id under the name."""
        object_id = await asyncio.to_thread(self.linked, name)
        if object_id is None:
            return False
        await asyncio.to_thread(self.get, object_id, target)
        return True

    async def save(self, object_id: str, target: Path) -> None:
        """See `Objects`."""
        await asyncio.to_thread(self.get, object_id, target)

    async def share(self, name: str, source: Path) -> None:
        """See `Objects`."""

        def write(target: BinaryIO) -> None:
            _copy(source, target, STORED_LIMIT_BYTES, lambda count: None)

        object_id = await asyncio.to_thread(self._put, write, name)
        await asyncio.to_thread(self.link, name, object_id)

    async def made(self, name: str) -> str | None:
        """See `Objects`."""
        if name not in self._made:
            object_id = await asyncio.to_thread(self.linked, name)
            if object_id is None:
                return None
            self._made[name] = object_id
        return self._made[name]

    async def keep(self, name: str, tree: Tree) -> str:
        """See `Objects`."""
        object_id = await asyncio.to_thread(self.put_tree, tree, name)
        return await asyncio.to_thread(self.link, name, object_id)


def checked_id(text: str, error: type[ConfigError | BuildError] = ConfigError) -> str:
    if not ID.fullmatch(text):
        raise error(f"{text[:100]!r} is no object id: `sha256:` and 64 hex digits")
    return text


def _digest(file: BinaryIO) -> str:
    """Of the whole file, which is at its begin afterwards."""
    file.seek(0)
    digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    file.seek(0)
    return digest


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)


def _copy(source: Path, target: BinaryIO, limit_bytes: int, on_bytes: OnBytes) -> None:
    left = limit_bytes
    with source.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            left -= len(piece)
            if left < 0:
                raise ConfigError(f"{source}: more than {limit_bytes >> 20} MiB in one object")
            target.write(piece)
            on_bytes(len(piece))
