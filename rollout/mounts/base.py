"""What each kind of mount comes to, and how it is read out of a config."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.checks import nearest
from rollout.objects.store import ObjectStore
from rollout.types import BuildStep

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|")
OWNER = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one mount comes to."""

    steps: tuple[BuildStep, ...]
    agents: tuple[tuple[str, str, str], ...] = ()
    """Name, exact version, where from."""
    secrets: tuple[tuple[str, str], ...] = ()
    """For `Blueprint.secrets`: what its steps may read."""
    notes: tuple[str, ...] = ()
    """What people should hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What all mounts of a blueprint come to, everything in it exact."""

    baked: tuple[BuildStep, ...] = ()
    """Of mounts with `at: build`: to stand behind the blueprint's own steps."""
    launch: tuple[BuildStep, ...] = ()
    """Of mounts with `at: launch`: to stand before its launch commands."""
    agents: tuple[tuple[str, str, str], ...] = ()
    """For `Blueprint.agents`."""
    secrets: tuple[tuple[str, str], ...] = ()
    """To be added to `Blueprint.secrets`."""
    notes: tuple[str, ...] = ()
    """What people should hear: submodules left out, …"""


class Mount(Protocol):
    """One mount whose keys are in order."""

    def resolve(self, objects: ObjectStore) -> Part:
        """Pin it, and put what it brings into the object store. ConfigError if it cannot be."""


class Fields:
    """The keys of one mount. What is wrong is collected, so that people hear all of it at once."""

    def __init__(self, number: int, values: Mapping[str, Any]) -> None:
        self._where = f"mounts[{number}]"
        self._values = values
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def problem(self, key: str, advice: str) -> None:
        self.problems.append(f"{self._where}.{key}: {advice}")

    def error(self, exc: Exception) -> str:
        """What went wrong with the mount as a whole, as a line like those of `problems`."""
        return f"{self._where}: {exc}"

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default it must be given."""
        self._asked.add(key)
        value = self._values.get(key)
        if value is None:
            if default is None:
                self.problem(key, "must be given")
            return default or ""
        if not isinstance(value, str) or "\0" in value:
            self.problem(key, f"must be a text, was {value!r}")
            return default or ""
        return value

    def has(self, key: str) -> bool:
        """Whether the key stands there, be it with null."""
        self._asked.add(key)
        return key in self._values

    def is_null(self, key: str) -> bool:
        return self.has(key) and self._values[key] is None

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in allowed and (value or default is not None):
            hint = nearest(value, list(allowed))
            self.problem(key, f"{value!r} is none of {', '.join(allowed)}{hint}")
        return value

    def absolute(self, key: str) -> str:
        """An absolute path inside, without `.` and `..`."""
        value = self.text(key)
        plain = posixpath.normpath(value)
        if value and (not value.startswith("/") or plain != value.rstrip("/") or plain == "/"):
            self.problem(key, f"{value!r} must be an absolute path below /, without . and ..")
        return plain

    def owner(self) -> str:
        value = self.text("owner", "")
        if not OWNER.fullmatch(value):
            self.problem("owner", f"{value!r} must be user or user:group")
        return value

    def variable(self, key: str) -> str:
        """The name of a variable of this process; empty unless it is given."""
        value = self.text(key, "")
        if not VARIABLE.fullmatch(value):
            # It may be the token itself: not shown.
            self.problem(key, "must be the name of a variable, not a token")
            return ""
        return value

    def mapping(self, key: str) -> dict[str, str]:
        """Texts by text; none unless it is given."""
        self._asked.add(key)
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            self.problem(key, f"must be a mapping of texts, was {value!r}")
            return {}
        return {str(name): text for name, text in value.items()}

    def finish(self) -> None:
        """Every key that nobody asked for is a slip."""
        for key in self._values:
            if key not in self._asked:
                self.problem(str(key), f"unknown key{nearest(str(key), sorted(self._asked))}")
