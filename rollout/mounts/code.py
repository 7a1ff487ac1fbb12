"""A git repository at one commit: resolved and scrubbed here, an object for everybody else."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rollout.errors import ConfigError
from rollout.mounts.base import Fields, Part
from rollout.mounts.git import commit_of, fetch, git, source_of
from rollout.mounts.repository import files_of, scrubbed, snapshot
from rollout.objects.store import ObjectStore
from rollout.types import BuildStep, Tree, digest_of

FULL, NONE = "full", "none"
FORMAT = 1
"""Of what is made of a commit; another one is another object."""


@dataclass(frozen=True, slots=True)
class CodeMount:
    source: str
    ref: str
    dest: str
    token_env: str
    history: str
    owner: str

    @classmethod
    def read(cls, fields: Fields) -> "CodeMount":
        return cls(
            source=fields.text("source"),
            ref=fields.text("ref"),
            dest=fields.absolute("dest"),
            token_env=fields.variable("token_env"),
            history=fields.choice("history", (FULL, NONE), FULL),
            owner=fields.owner(),
        )

    def resolve(self, objects: ObjectStore) -> Part:
        with git(source_of(self.source, self.token_env)) as here:
            commit = commit_of(here, self.ref)
            name = f"code/{digest_of([FORMAT, commit, self.history])}"
            record = objects.linked(name)
            if record is None:
                record = objects.link(name, self._record(objects, commit))
        object_id, notes = _told(objects, record)
        if self.ref != commit:
            notes = [f"{self.ref} of {self.source} is commit {commit}", *notes]
        step = BuildStep(
            op="object", object_id=object_id, dest=self.dest, owner=self.owner, value=commit
        )
        return Part(steps=(step,), notes=tuple(f"code at {self.dest}: {note}" for note in notes))

    def _record(self, objects: ObjectStore, commit: str) -> str:
        """Of the object made of a commit, and what is to be said of it: an object as well."""
        with git(source_of(self.source, self.token_env)) as here, TemporaryDirectory() as folder:
            work = Path(folder)
            repository = work / "fetched"
            fetch(here, commit, repository, shallow=self.history == NONE)
            files = files_of(here, repository, commit)
            head = commit if self.history == FULL else snapshot(here, repository, commit)
            own = scrubbed(here, repository, head, work)
        tree = Tree((*files.tree.entries, *own.entries))
        object_id = objects.put_tree(tree, f"commit {commit}")
        told = json.dumps({"object": object_id, "notes": files.notes})
        return objects.put_bytes(told.encode(), f"record of commit {commit}")


def _told(objects: ObjectStore, record: str) -> tuple[str, list[str]]:
    told = objects.read_tree(record).entries[0].data
    try:
        found = json.loads(told)
        return found["object"], [str(note) for note in found["notes"]]
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{record} is no record of a commit: {exc}") from exc
