"""Where the parts of a task stand in one line of JSON."""

import json
import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Any

from rollout.errors import ConfigError
from rollout.tasks.problems import Problems, nearest
from rollout.tasks.trees import Budget
from rollout.types import Tree, TreeEntry

PARTS = (
    *("id", "instruction", "files", "tests", "solution"),
    *("command", "timeout_s", "blueprint"),
)
"""What a task can take from a line; `id` and `instruction` it must have."""
_NO_TEXT = ("timeout_s", "blueprint")
"""Parts that no template can make."""
_SCRIPTS = {"tests": "test.sh", "solution": "solve.sh"}
"""Where a part is given as one text, the file that text is."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Which part of a task stands where in a line."""

    fields: Mapping[str, str]
    templates: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Mapping[str, str], templates: Mapping[str, Any]) -> "FieldMapping":
        """From what a config holds; ConfigError names the key that is wrong."""
        return cls(_checked_fields(fields), _checked_templates(templates))

    def name(self, part: str) -> str:
        return self.fields.get(part, part)

    def text(self, part: str, row: Row, problems: Problems) -> str:
        """A text part; a number as `id` counts as its digits; missing is empty."""
        value = self._value(part, row, problems)
        if part == "id" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not (isinstance(value, str) and _encodable(value)):
            problems.add(self.name(part), f"saw {_shown(value)}; use a string")
            return ""
        return value or ""

    def seconds(self, part: str, row: Row, problems: Problems) -> float | None:
        value = self._value(part, row, problems)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            problems.add(self.name(part), f"saw {_shown(value)}; use seconds above 0")
            return None
        return float(value)

    def table(self, part: str, row: Row, problems: Problems) -> Row:
        """A part that is an object of keys; missing is empty."""
        value = self._value(part, row, problems)
        if value is not None and not isinstance(value, dict):
            problems.add(self.name(part), f"saw {_shown(value)}; use an object")
            return {}
        return value or {}

    def tree(self, part: str, row: Row, budget: Budget, problems: Problems) -> Tree:
        """A part that is files."""
        value = self._value(part, row, problems)
        if isinstance(value, str) and part in _SCRIPTS:
            value = {_SCRIPTS[part]: value}
        if value is None:
            return Tree()
        if not isinstance(value, dict) or not all(isinstance(t, str) for t in value.values()):
            problems.add(self.name(part), f"saw {_shown(value)}; use an object of path to text")
            return Tree()
        try:
            return Tree(tuple(_file(path, value[path], budget) for path in sorted(value)))
        except ConfigError as exc:
            problems.add(self.name(part), str(exc))
            return Tree()

    def rest(self, row: Row) -> Row:
        """The fields that no part uses."""
        used = {self.name(part).partition(".")[0] for part in PARTS}
        return {key: value for key, value in row.items() if key not in used}

    def _value(self, part: str, row: Row, problems: Problems) -> Any:
        if part in self.templates:
            return _fill(self.templates[part], row, f"template {part}", problems)
        value: Any = row
        for key in self.name(part).split("."):
            if not isinstance(value, dict) or key not in value:
                if part in self.fields:
                    near = nearest(key, value) if isinstance(value, dict) else ""
                    problems.add(self.name(part), f"the line has no such field{near}")
                return None
            value = value[key]
        return value


def _fill(template: Any, row: Row, where: str, problems: Problems) -> Any:
    if isinstance(template, dict):
        filled = {path: _fill(text, row, where, problems) for path, text in template.items()}
        return None if None in filled.values() else filled
    texts = {key: value if isinstance(value, str) else _plain(value) for key, value in row.items()}
    try:
        return Template(template).substitute(texts)
    except KeyError as exc:
        problems.add(where, f"the line has no field {exc.args[0]!r}{nearest(exc.args[0], row)}")
    except ValueError as exc:
        problems.add(where, f"{exc}; write $$ for a dollar sign")
    return None


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _file(path: str, text: str, budget: Budget) -> TreeEntry:
    plain = posixpath.normpath(path)
    if not path or path.startswith("/") or plain in (".", "..") or plain.startswith("../"):
        raise ConfigError(f"saw the path {path!r}; use a relative path without ..")
    if not _encodable(path + text):
        raise ConfigError(f"{path!r} holds half a character (a lone surrogate)")
    data = text.encode()
    budget.take(plain, len(data))
    mode = 0o755 if data.startswith(b"#!") else 0o644
    return TreeEntry(plain, "file", mode, data)


def _encodable(text: str) -> bool:
    """JSON may spell halves of characters, which no file and no table can hold."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def parse_row(text: str, problems: Problems) -> Row | None:
    """The object on one line, or `None` after telling why there is none."""
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as exc:
        problems.add("the line", f"is no JSON: {exc}")
        return None
    if not isinstance(row, dict):
        problems.add("the line", f"saw {_shown(row)}; use an object")
        return None
    return row


def _checked_fields(fields: Mapping[str, str]) -> dict[str, str]:
    for part, name in fields.items():
        if part not in PARTS:
            raise ConfigError(f"task.fields.{part}: unknown part of a task{nearest(part, PARTS)}")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"task.fields.{part}: saw {name!r}; use the name of a field")
    return dict(fields)


def _checked_templates(templates: Mapping[str, Any]) -> dict[str, Any]:
    for part, template in templates.items():
        if part not in PARTS or part in _NO_TEXT:
            known = [name for name in PARTS if name not in _NO_TEXT]
            raise ConfigError(f"task.templates.{part}: no such part{nearest(part, known)}")
        texts = template.values() if isinstance(template, Mapping) else [template]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"task.templates.{part}: saw {template!r}; use text, or path: text")
    return {
        part: dict(template) if isinstance(template, Mapping) else template
        for part, template in templates.items()
    }


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
