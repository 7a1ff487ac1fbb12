"""Digests: one spelling for one value, so that equal means equal everywhere and for ever."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest_of(value: Any) -> str:
    """A stable 64-digit hex SHA-256 of plain data and of the dataclasses in this module."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, bytes by their hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "sha256:" + hashlib.sha256(value).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical form")


def digest_without(value: Any, *left_out: str) -> str:
    names = (f.name for f in dataclasses.fields(value) if f.name not in left_out)
    return digest_of({name: getattr(value, name) for name in names})


def count_by(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, in order of first sight."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
