"""A TOML table that is read key by key, so that no key is ever passed over in silence."""

import math
from collections.abc import Sequence
from typing import Any

from rollout.tasks.problems import Problems, nearest


class Table:
    """Typed reading of one table. Whatever is wrong goes to `problems`, with the key's path.

    Each reader marks its key as known and gives its default when the key is missing or wrong;
    `done` then tells of every key nobody asked for.
    """

    def __init__(self, data: dict[str, Any], where: str, problems: Problems) -> None:
        self.data = data
        self.problems = problems
        self._where = where
        self._known: set[str] = set()

    def path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        self._known.add(key)
        return key in self.data

    def wrong(self, key: str, wanted: str) -> None:
        """Tell that the key holds what it cannot."""
        self.problems.add(self.path(key), f"saw {_shown(self.data.get(key))}; use {wanted}")

    def refuse(self, key: str, why: str, *, harmless: Sequence[Any] = ()) -> None:
        """Tell that the key is not supported, unless it holds one of the `harmless` values."""
        if self.has(key) and self.data[key] not in harmless:
            self.problems.add(self.path(key), f"saw {_shown(self.data[key])}; {why}")

    def text(self, key: str, default: str = "") -> str:
        if not self.has(key):
            return default
        value = self.data[key]
        if not isinstance(value, str) or "\0" in value:
            self.wrong(key, "a string")
            return default
        return value

    def user(self, key: str) -> str:
        """A user's name or number; empty when not given."""
        value = self.data.get(key, "")
        if self.has(key) and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return str(value)
        if isinstance(value, str) and ":" not in value:
            return value
        self.wrong(key, "a user's name or number")
        return ""

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        value = self.text(key, default).lower()
        if self.has(key) and isinstance(self.data[key], str) and value not in options:
            self.problems.add(
                self.path(key), f"saw {_shown(self.data[key])}; use {', '.join(options)}"
            )
            return default
        return value

    def number(self, key: str, default: Any = None, *, zero: bool = False) -> Any:
        """A finite number above zero (`zero`: or zero itself)."""
        if not self.has(key):
            return default
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, "a number")
            return default
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            self.wrong(key, "a finite number of 0 or more" if zero else "a finite number above 0")
            return default
        return value

    def seconds(self, key: str, default: float, *, zero: bool = False) -> float:
        return float(self.number(key, default, zero=zero))

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number above zero; `512.0` counts as one."""
        value = self.number(key, default)
        if value is None or value == int(value):
            return None if value is None else int(value)
        self.wrong(key, "a whole number")
        return default

    def flag(self, key: str) -> bool | None:
        if not self.has(key):
            return None
        if not isinstance(self.data[key], bool):
            self.wrong(key, "true or false")
            return None
        return bool(self.data[key])

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key, [])
        if not (self.has(key) or value) or _is_list_of(value, str):
            return tuple(value)
        self.wrong(key, "a list of strings")
        return ()

    def pairs(self, key: str) -> dict[str, str]:
        """A table of strings, such as `env`."""
        table = self.table(key)
        if table is None:
            return {}
        return {name: table.text(name) for name in table.data}

    def table(self, key: str) -> "Table | None":
        if not self.has(key):
            return None
        if not isinstance(self.data[key], dict):
            self.wrong(key, f"a table, [{key}]")
            return None
        return Table(self.data[key], self._below(key), self.problems)

    def tables(self, key: str) -> "list[Table]":
        if not self.has(key):
            return []
        if not _is_list_of(self.data[key], dict):
            self.wrong(key, f"tables, [[{key}]]")
            return []
        where = self._below(key)
        return [
            Table(data, f"[{where}] {number}", self.problems)
            for number, data in enumerate(self.data[key], start=1)
        ]

    def _below(self, key: str) -> str:
        inner = self._where.removeprefix("[").removesuffix("]")
        return f"[{inner}.{key}]" if inner else f"[{key}]"

    def done(self) -> None:
        """Refuse every key that was not asked for."""
        for key in self.data:
            if key not in self._known:
                near = nearest(key, self._known)
                self.problems.add(self.path(key), f"unknown key{near}")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
