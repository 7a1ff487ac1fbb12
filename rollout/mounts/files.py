"""Mounts whose bytes are at hand: a file, a folder, and an object by its id."""

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import BuildError, ConfigError
from rollout.mounts.base import Fields, Part
from rollout.objects.store import ID, ObjectStore
from rollout.types import BuildStep, Tree, TreeEntry

FILE_LIMIT_BYTES = 16 << 20
"""Of one file in a blueprint, which travels with every task; `objects put` takes larger ones."""


@dataclass(frozen=True, slots=True)
class FileMount:
    dest: str
    content: bytes | None
    source: str
    mode: int
    owner: str

    @classmethod
    def read(cls, fields: Fields) -> "FileMount":
        given = [key for key in ("content", "source") if fields.has(key)]
        if len(given) != 1:
            fields.problem("content", "give either the content or, as source, a file of this host")
        content = fields.text("content") if given == ["content"] else None
        mode = fields.text("mode", "644")
        if not re.fullmatch(r"0?[0-7]{3}", mode):
            fields.problem("mode", f'{mode!r} must be three octal digits in quotes, such as "755"')
        return cls(
            dest=fields.absolute("dest"),
            content=None if content is None else content.encode(errors="surrogateescape"),
            source=fields.text("source") if given == ["source"] else "",
            mode=int(mode, 8) if mode.isdigit() and not set(mode) & {"8", "9"} else 0o644,
            owner=fields.owner(),
        )

    def resolve(self, objects: ObjectStore) -> Part:
        data = self.content if self.content is not None else self._read()
        if len(data) > FILE_LIMIT_BYTES:
            raise ConfigError(
                f"{len(data)} bytes for {self.dest}; up to {FILE_LIMIT_BYTES >> 20} MiB can be "
                "part of a blueprint: use `objects put` and a mount of kind object"
            )
        folder, name = posixpath.split(self.dest)
        tree = Tree((TreeEntry(name, "file", self.mode, data),))
        return Part(steps=(BuildStep(op="put", dest=folder, tree=tree, owner=self.owner),))

    def _read(self) -> bytes:
        path = Path(self.source).expanduser()
        try:
            if not path.is_file():
                raise ConfigError(f"source: {self.source!r} is no file on this host")
            with path.open("rb") as file:
                return file.read(FILE_LIMIT_BYTES + 1)
        except OSError as exc:
            raise ConfigError(f"source: {self.source!r} cannot be read: {exc.strerror}") from exc


@dataclass(frozen=True, slots=True)
class FolderMount:
    source: str
    dest: str
    owner: str

    @classmethod
    def read(cls, fields: Fields) -> "FolderMount":
        return cls(source=fields.text("source"), dest=fields.absolute("dest"), owner=fields.owner())

    def resolve(self, objects: ObjectStore) -> Part:
        path = Path(self.source).expanduser()
        if not path.is_dir():
            raise ConfigError(f"source: {self.source!r} is no folder on this host")
        object_id = objects.put_path(path)
        step = BuildStep(op="object", object_id=object_id, dest=self.dest, owner=self.owner)
        return Part(steps=(step,))


@dataclass(frozen=True, slots=True)
class ObjectMount:
    id: str
    dest: str
    owner: str

    @classmethod
    def read(cls, fields: Fields) -> "ObjectMount":
        object_id = fields.text("id")
        if object_id and not ID.fullmatch(object_id):
            fields.problem(
                "id", f"{object_id!r} is no id: sha256: and 64 hex digits, as `objects put` prints"
            )
        return cls(id=object_id, dest=fields.absolute("dest"), owner=fields.owner())

    def resolve(self, objects: ObjectStore) -> Part:
        try:
            objects.read_tree(self.id)
        except BuildError as exc:
            raise ConfigError(str(exc)) from exc
        step = BuildStep(op="object", object_id=self.id, dest=self.dest, owner=self.owner)
        return Part(steps=(step,))
