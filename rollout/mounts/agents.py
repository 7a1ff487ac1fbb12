"""An agent of npm, PyPI, git or an object: pinned here, installed inside, its version checked."""

import os
import re
from dataclasses import dataclass

from rollout.errors import BuildError, ConfigError
from rollout.mounts.agent_sources import (
    default_name,
    kind_of,
    npm_version,
    pypi_version,
    unwrapped,
    written_version,
)
from rollout.mounts.agent_steps import PREFIX, SOURCE, install_steps, link_step, verify_step
from rollout.mounts.base import VARIABLE, Fields, Part
from rollout.mounts.git import commit_of, fetch, git, source_of
from rollout.mounts.repository import files_of
from rollout.objects.store import ID, ObjectStore
from rollout.types import BuildStep, Secret, digest_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+_-]*")
KINDS = ("npm", "pypi", "git", "object")


@dataclass(frozen=True, slots=True)
class AgentMount:
    kind: str
    source: str
    """Without its kind."""
    name: str
    version: str
    version_command: str
    token_env: str
    secrets: tuple[tuple[str, str], ...]
    """Variable of the installation to variable of the worker."""

    @classmethod
    def read(cls, fields: Fields) -> "AgentMount":
        source = fields.text("source")
        kind, _, rest = source.partition(":")
        if source and (kind not in KINDS or not rest):
            fields.problem(
                "source",
                f"{source!r} must be npm:NAME@VERSION, pypi:NAME==VERSION, git:URL@REF or "
                "object:sha256:…",
            )
        needs_name = kind == "object"
        name = fields.text("name", None if needs_name else default_name(source))
        if name and not NAME.fullmatch(name):
            fields.problem("name", f"{name!r} must be lower-case letters, digits, '.', '_', '-'")
        version = fields.text("version", "")
        if version and not VERSION.fullmatch(version):
            fields.problem("version", f"{version!r} is no version")
        if version and kind in ("npm", "pypi"):
            fields.problem(
                "version", "stands in the source, npm:NAME@VERSION or pypi:NAME==VERSION"
            )
        unchecked = fields.is_null("version_command")
        command = "" if unchecked else fields.text("version_command", f"{name} --version")
        secrets = tuple(fields.mapping("secrets").items())
        if not all(VARIABLE.fullmatch(text) and text for pair in secrets for text in pair):
            fields.problem("secrets", "must be variables of the installation to those here")
        return cls(kind, rest, name, version, command, fields.variable("token_env"), secrets)

    def resolve(self, objects: ObjectStore) -> Part:
        version, source, steps = {
            "npm": self._of_npm,
            "pypi": self._of_pypi,
            "git": self._of_git,
            "object": self._of_object,
        }[self.kind](objects)
        link = link_step(self.name)
        check = (verify_step(self.name, version, self.version_command),)
        inner = (*steps, *(check if self.version_command else ()))
        made = BuildStep(op="made", dest=f"{PREFIX}/{self.name}", steps=inner)
        return Part(
            steps=(made, link),
            agents=((self.name, version, source),),
            secrets=tuple((self._id(inside), here) for inside, here in self.secrets),
            notes=(f"agent {self.name} is version {version} of {source}",),
        )

    # ---------------------------------------------------------------- registries

    def _of_npm(self, objects: ObjectStore) -> tuple[str, str, tuple[BuildStep, ...]]:
        name, version = npm_version(self.source, self._environment())
        what = f"{name}@{version}"
        return version, f"npm:{what}", install_steps(self.name, "npm", what, "", self._given())

    def _of_pypi(self, objects: ObjectStore) -> tuple[str, str, tuple[BuildStep, ...]]:
        name, extras, version = pypi_version(self.source, self._environment())
        what = f"{name}{extras}=={version}"
        return version, f"pypi:{what}", install_steps(self.name, "pip", what, name, self._given())

    def _id(self, inside: str) -> str:
        return f"{self.name}-{inside}"

    def _given(self) -> tuple[Secret, ...]:
        return tuple(
            Secret(id=self._id(inside), env=inside, required=True) for inside, _ in self.secrets
        )

    def _environment(self) -> dict[str, str]:
        """The same for the clients here."""
        missing = [here for _, here in self.secrets if not os.environ.get(here)]
        if missing:
            raise ConfigError(f"secrets: the variable {missing[0]} is not set here")
        return {inside: os.environ[here] for inside, here in self.secrets}

    # ---------------------------------------------------------------- folders

    def _of_git(self, objects: ObjectStore) -> tuple[str, str, tuple[BuildStep, ...]]:
        url, _, ref = self.source.rpartition("@")
        if not url or not ref:
            raise ConfigError(f"source: {self.source!r} names no ref; write git:URL@REF")
        with git(source_of(url, self.token_env)) as here:
            commit = commit_of(here, ref)
            name = f"agents/{digest_of([1, commit])}"
            object_id = objects.linked(name)
            if object_id is None:
                repository = here.home / "fetched"
                fetch(here, commit, repository, shallow=True)
                tree = files_of(here, repository, commit).tree
                object_id = objects.link(name, objects.put_tree(tree, f"commit {commit}"))
        return self._of_tree(objects, object_id, f"git:{url}@{commit}")

    def _of_object(self, objects: ObjectStore) -> tuple[str, str, tuple[BuildStep, ...]]:
        if not ID.fullmatch(self.source):
            raise ConfigError(
                f"source: {self.source!r} is no id: object:sha256:… and 64 hex digits"
            )
        return self._of_tree(objects, self.source, f"object:{self.source}")

    def _of_tree(
        self, objects: ObjectStore, object_id: str, source: str
    ) -> tuple[str, str, tuple[BuildStep, ...]]:
        try:
            tree = objects.read_tree(object_id)
        except BuildError as exc:
            raise ConfigError(f"source: {exc}") from exc
        inner = unwrapped(tree)
        kind = kind_of(inner)
        version = self.version or written_version(inner)
        if not VERSION.fullmatch(version):
            raise ConfigError("version: must be given, the source does not tell its own")
        if inner is not tree:
            object_id = objects.put_tree(inner, self.name)
        prefix = f"{PREFIX}/{self.name}"
        dest = prefix if kind == "plain" else f"{prefix}/{SOURCE}"
        put = BuildStep(op="object", object_id=object_id, dest=dest)
        return version, source, (put, *install_steps(self.name, kind, "", "", self._given()))
