"""`steps` of a blueprint as users write them, each with the one word that says what it does.

- run: "apt-get update && apt-get install -y jq"
- run: {command: "pip install -r /app/r.txt", env: {A: b}, secrets: [token]}
- copy: {from: src, to: /app/, owner: "1000:1000", mode: "755"}
- env: {LANG: C.UTF-8}
- workdir: /app
- user: nobody
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from rollout.tasks.copying import Copy, copy_step
from rollout.tasks.problems import Problems, nearest
from rollout.tasks.trees import Budget
from rollout.types import BuildStep, Secret

SHELL = ("/bin/sh", "-c")
"""What takes a command that is one text, as in a Dockerfile."""


def read_steps(
    steps: Sequence[Any],
    *,
    folder: Path,
    workdir: str,
    secrets: Mapping[str, str],
    budget: Budget,
    where: str,
    problems: Problems,
) -> tuple[BuildStep, ...]:
    """The steps that can be read; `problems` hears of all others, each by its place.

    folder: where `copy` takes from; nothing outside of it is read. workdir: where they begin.
    """
    reader = _Steps(folder.resolve(), workdir or "/", secrets, budget)
    for number, step in enumerate(steps):
        at = f"{where}[{number}]"
        try:
            word, value = _one_word(step, reader.words)
            at = f"{at}.{word}"
            reader.words[word](value)
        except (ConfigError, OSError) as exc:
            problems.add(at, str(exc))
    return tuple(reader.done)


def run_step(command: str) -> BuildStep:
    """A shell command as a step."""
    return BuildStep(op="run", argv=(*SHELL, command))


class _Steps:
    """What the steps so far have said."""

    def __init__(
        self, folder: Path, workdir: str, secrets: Mapping[str, str], budget: Budget
    ) -> None:
        self.done: list[BuildStep] = []
        self.words: dict[str, Callable[[Any], None]] = {
            "run": self._run,
            "copy": self._copy,
            "env": self._env,
            "workdir": self._workdir,
            "user": self._user,
        }
        self._folder = folder
        self._secrets = secrets
        self._budget = budget
        self._at = workdir
        self._who = ""

    def _run(self, value: Any) -> None:
        table = {"command": value} if isinstance(value, str) else value
        _check_keys(table, {"command": str, "env": dict, "secrets": list})
        command = table.get("command", "")
        if not command.strip():
            raise ConfigError("needs a shell command")
        secrets = tuple(self._secret(word) for word in table.get("secrets", ()))
        env = _pairs(table.get("env", {}))
        self.done.append(BuildStep(op="run", argv=(*SHELL, command), env=env, secrets=secrets))

    def _secret(self, word: Any) -> Secret:
        table = {"id": word} if isinstance(word, str) else word
        _check_keys(table, {"id": str, "target": str, "env": str})
        if table.get("id") not in self._secrets:
            raise ConfigError(
                f"the secret {table.get('id')!r} is none of blueprint.secrets"
                + nearest(str(table.get("id")), self._secrets)
            )
        return Secret(**table, required=True)

    def _copy(self, value: Any) -> None:
        _check_keys(value, {"from": (str, list, tuple), "to": str, "owner": str, "mode": str})
        sources = value.get("from", "")
        sources = (sources,) if isinstance(sources, str) else tuple(map(str, sources))
        if not all(sources) or not sources or not value.get("to"):
            raise ConfigError("needs from: what to copy, and to: where")
        flags = {
            flag: value[key]
            for flag, key in (("chown", "owner"), ("chmod", "mode"))
            if value.get(key)
        }
        made = frozenset(folder for step in self.done for folder in _folders(step))
        copy = Copy("copy", sources, value["to"], flags, self._at, made)
        self.done.append(copy_step(copy, self._folder, lambda path: False, self._budget))

    def _env(self, value: Any) -> None:
        for key, text in _pairs(value):
            self.done.append(BuildStep(op="env", key=key, value=text))

    def _workdir(self, value: Any) -> None:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"saw {value!r}; use a folder")
        self._at = posixpath.normpath(posixpath.join(self._at, value))
        self.done.append(BuildStep(op="workdir", dest=self._at, owner=self._who))

    def _user(self, value: Any) -> None:
        if not isinstance(value, str | int) or not str(value) or ":" in str(value):
            raise ConfigError(f"saw {value!r}; use one user's name or number, without a group")
        self._who = str(value)
        self.done.append(BuildStep(op="user", value=self._who))


def _one_word(step: Any, words: Mapping[str, Any]) -> tuple[str, Any]:
    known = ", ".join(words)
    if not isinstance(step, Mapping) or len(step) != 1:
        raise ConfigError(f"saw {step!r}; use one of {known}, such as run: ls")
    ((word, value),) = step.items()
    if word not in words:
        raise ConfigError(
            f"{word!r} is no step" + (nearest(str(word), words) or f"; known: {known}")
        )
    return str(word), value


def _check_keys(table: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"saw {table!r}; use a text or a map of {', '.join(known)}")
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{key!r} is an unknown key{nearest(str(key), known)}")
        kind = Mapping if known[key] is dict else known[key]
        kind = (list, tuple) if known[key] is list else kind
        if not isinstance(value, kind):
            raise ConfigError(f"{key}: saw {value!r}; use {_SPELLED.get(known[key], 'a text')}")


_SPELLED: dict[Any, str] = {dict: "a map of names and values", list: "a list"}


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"saw {value!r}; use a map of names and values")
    for name in value:
        if not str(name) or "=" in str(name) or "\0" in str(name):
            raise ConfigError(f"{name!r} cannot name a variable")
    return tuple((str(name), str(text)) for name, text in value.items())


def _folders(step: BuildStep) -> Iterator[str]:
    if step.dest:
        yield step.dest
    for entry in step.tree.entries if step.tree else ():
        if entry.kind == "dir":
            yield posixpath.join(step.dest, entry.path)
