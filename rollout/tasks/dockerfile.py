"""A Dockerfile without RUN, as steps of a blueprint.

Understood as Docker does: FROM (through the map of bases), ARG, ENV, WORKDIR, USER, COPY, ADD of
local files and archives, VOLUME (its folder is made). Without effect on files or on how commands
start here, and so passed over: LABEL, EXPOSE, MAINTAINER, STOPSIGNAL, HEALTHCHECK, CMD, SHELL.
All else is refused by name and line: RUN, ENTRYPOINT, ONBUILD, more than one stage, COPY --from,
URLs, heredocs.
"""

import io
import json
import platform
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

from rollout.blueprints import find_base
from rollout.errors import ConfigError
from rollout.tasks.copying import Copy, copy_step
from rollout.tasks.dockerfile_words import expand, pairs
from rollout.tasks.dockerignore import read_ignore
from rollout.tasks.problems import Problems, nearest
from rollout.tasks.trees import Budget
from rollout.types import BuildStep, Tree

_PASSED_OVER = frozenset(
    {"LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "CMD", "SHELL", "COMMENT"}
)
_REFUSED = {
    "RUN": "RUN is not supported by this version; bake what it does into the base, "
    "or put its result into environment/ and COPY it",
    "ENTRYPOINT": "ENTRYPOINT would start a service, which is not supported; "
    "remove it or start the service from the agent or the tests",
    "ONBUILD": "ONBUILD is not supported; write the instruction itself",
}
_PLATFORM_ARGS = re.compile(r"(TARGET|BUILD)(PLATFORM|OS|ARCH|VARIANT)")
_ARCHITECTURES = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "arm64/v8", "aarch64")}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Dockerfile comes to."""

    base: str
    steps: tuple[BuildStep, ...]


def read_dockerfile(
    dockerfile: Path,
    *,
    context: Path,
    field: str,
    images: Mapping[str, str],
    budget: Budget,
    problems: Problems,
) -> Recipe | None:
    """The recipe, or `None` after telling `problems` of every line that cannot be used.

    `field` is how the file is called in messages, such as `environment/Dockerfile`.
    """
    reader = _Reader(context, dockerfile, images, budget)
    before = len(problems.lines)
    try:
        content = dockerfile.read_bytes()
        lines = DockerfileParser(fileobj=io.BytesIO(content)).structure
    except UnicodeDecodeError as exc:
        problems.add(field, str(exc))
        return None
    for line in lines:
        try:
            reader.apply(line["instruction"], line["value"])
        except _Stop as exc:
            problems.add(f"{field}:{line['startline'] + 1}", str(exc))
            return None
        except (ConfigError, OSError) as exc:
            problems.add(f"{field}:{line['startline'] + 1}", str(exc))
    for at, text in _passed_over(content, lines):
        problems.add(f"{field}:{at}", f"{text[:60]!r} is no whole instruction")
    if reader.base is None and len(problems.lines) == before:
        problems.add(field, "it has no FROM")
    if reader.base is None or len(problems.lines) > before:
        return None
    return Recipe(reader.base, tuple(reader.steps))


class _Stop(ConfigError):
    """A problem after which the rest of the file cannot be read with sense."""


def _passed_over(content: bytes, lines: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that the library has left out in silence."""
    read = {at for line in lines for at in range(line["startline"], line["endline"] + 1)}
    for at, text in enumerate(content.decode().splitlines()):
        if text.strip() and at not in read:
            yield at + 1, text.strip()


class _Reader:
    """The state Docker carries from line to line."""

    def __init__(
        self, context: Path, dockerfile: Path, images: Mapping[str, str], budget: Budget
    ) -> None:
        self.base: str | None = None
        self.steps: list[BuildStep] = []
        self._images = images
        self._budget = budget
        self._context = context.resolve()
        self._hidden = read_ignore(context, dockerfile)
        self._global_args: dict[str, str] = {}
        self._args: dict[str, str] = {}
        self._env: dict[str, str] = {}
        self._workdir = "/"
        self._user = ""
        self._stages = 0
        self._verbs: dict[str, Callable[[str], None]] = {
            "FROM": self._from,
            "ARG": self._arg,
            "ENV": self._set_env,
            "WORKDIR": self._set_workdir,
            "USER": self._set_user,
            "VOLUME": self._volume,
            "COPY": lambda value: self._copy("COPY", value),
            "ADD": lambda value: self._copy("ADD", value),
        }

    def apply(self, instruction: str, value: str) -> None:
        """One instruction; ConfigError says what is wrong with it."""
        if instruction in _PASSED_OVER:
            return
        if re.search(r"<<-?['\"]?\w", value):
            raise _Stop(f"{instruction} with a heredoc is not supported; use a file")
        if instruction in _REFUSED:
            raise ConfigError(_REFUSED[instruction])
        if instruction not in self._verbs:
            raise ConfigError(
                f"unknown instruction {instruction}{nearest(instruction, self._verbs)}"
            )
        if self._stages == 0 and instruction not in ("FROM", "ARG"):
            raise _Stop(f"{instruction} stands before FROM")
        self._verbs[instruction](value)

    @property
    def _variables(self) -> dict[str, str]:
        return {**self._args, **self._env}

    def _from(self, value: str) -> None:
        self._stages += 1
        if self._stages > 1:
            raise _Stop("a second FROM: more than one stage is not supported; bake the first one")
        words = value.split()
        while words and words[0].startswith("--"):
            _check_platform(expand(words.pop(0), self._global_args))
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise ConfigError(f"FROM {value!r} is not `FROM image` or `FROM image AS name`")
        self.base = find_base(expand(words[0], self._global_args), self._images)

    def _arg(self, value: str) -> None:
        for word in value.split() if "=" not in value else [value]:
            if "=" in word:
                self._declare(pairs(word, self._variables if self._stages else self._global_args))
            elif _PLATFORM_ARGS.fullmatch(word):
                raise ConfigError(f"ARG {word}, which BuildKit sets, is not supported")
            elif self._stages and word in self._global_args:
                self._args[word] = self._global_args[word]

    def _declare(self, values: list[tuple[str, str]]) -> None:
        (self._args if self._stages else self._global_args).update(values)

    def _set_env(self, value: str) -> None:
        for key, text in pairs(value, self._variables):
            if not key:
                raise ConfigError(f"ENV {value!r} has a value without a name")
            self._env[key] = text
            self.steps.append(BuildStep(op="env", key=key, value=text))

    def _set_workdir(self, value: str) -> None:
        folder = expand(value.strip(), self._variables)
        if not folder:
            raise ConfigError(f"WORKDIR {value!r} comes to nothing")
        self._workdir = posixpath.normpath(posixpath.join(self._workdir, folder))
        self.steps.append(BuildStep(op="workdir", dest=self._workdir, owner=self._user))

    def _set_user(self, value: str) -> None:
        user = expand(value.strip(), self._variables)
        if not user or ":" in user:
            raise ConfigError(f"USER {value!r}: use one user's name or number, without a group")
        self._user = user
        self.steps.append(BuildStep(op="user", value=user))

    def _volume(self, value: str) -> None:
        for folder in _words(value, self._variables):
            dest = posixpath.normpath(posixpath.join(self._workdir, folder))
            self.steps.append(BuildStep(op="put", dest=dest, tree=Tree()))

    def _copy(self, verb: str, value: str) -> None:
        flags: dict[str, str] = {}
        rest = value.strip()
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            name, _, setting = flag.removeprefix("--").partition("=")
            flags[name] = expand(setting, self._variables)
            rest = rest.strip()
        words = _words(rest, self._variables)
        if len(words) < 2:
            raise ConfigError(f"{verb} {value!r} needs a source and a destination")
        made = frozenset(folder for step in self.steps for folder in _folders(step))
        copy = Copy(verb, tuple(words[:-1]), words[-1], flags, self._workdir, made)
        self.steps.append(copy_step(copy, self._context, self._hidden, self._budget))


def _folders(step: BuildStep) -> Iterator[str]:
    """The folders a step is known to make."""
    if step.dest:
        yield step.dest
    for entry in (step.tree or Tree()).entries:
        if entry.kind == "dir":
            yield posixpath.join(step.dest, entry.path)


def _check_platform(flag: str) -> None:
    """`FROM --platform=` is fine where it is this machine's own."""
    wanted = flag.removeprefix("--platform=")
    own = _ARCHITECTURES.get(platform.machine(), (platform.machine(),))
    if wanted not in {f"linux/{architecture}" for architecture in own}:
        raise ConfigError(f"FROM {flag}: this machine is linux/{own[0]}")


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    """The JSON form if it is one, else words at white space; each with variables put in."""
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except json.JSONDecodeError:
            listed = None
        if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
            return [expand(word, variables) for word in listed]
    return [expand(word, variables) for word in text.split()]
