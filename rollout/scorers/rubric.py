"""What a judge is asked to grade, and its answer read: strictly, for a verdict is a reward."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.errors import ConfigError

REPLY_LIMIT_CHARS = 20_000
"""A verdict is short; what is longer is looked at as far as this."""
ONLY = "grade"
"""The key of the one criterion of a rubric that is a plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing to grade, from 0 to 1."""

    key: str
    """In the judge's answer."""
    name: str
    """Of its score; empty: the scorer's own."""
    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Grades:
    """A verdict that is one."""

    values: Mapping[str, float]
    """Criterion's key to a number from 0 to 1."""
    reasoning: str


def criteria_of(rubric: str | Mapping[str, Any]) -> tuple[Criterion, ...]:
    """ConfigError for a rubric that grades nothing."""
    if isinstance(rubric, str):
        if not rubric.strip():
            raise ConfigError("scorer.rubric: is empty; say what a good result is")
        return (Criterion(key=ONLY, name="", text=rubric),)
    if not rubric:
        raise ConfigError("scorer.rubric: is empty; name at least one criterion")
    return tuple(_criterion(name, given) for name, given in rubric.items())


def _criterion(name: str, given: Any) -> Criterion:
    where = f"scorer.rubric.{name}"
    if isinstance(given, str):
        given = {"text": given}
    if not isinstance(given, Mapping) or not {"text"} <= set(given) <= {"text", "weight"}:
        raise ConfigError(f"{where}: saw {given!r}; use a text, or {{text: …, weight: 1.0}}")
    weight = given.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigError(f"{where}.weight: saw {weight!r}; use a number above 0")
    if not math.isfinite(weight) or weight <= 0:
        raise ConfigError(f"{where}.weight: saw {weight!r}; use a finite number above 0")
    return Criterion(key=name, name=name, text=str(given["text"]), weight=float(weight))


def wanted(criteria: Sequence[Criterion]) -> str:
    """The inside of `grades`, as the judge is shown it."""
    return ", ".join(f"{json.dumps(criterion.key)}: 0.0" for criterion in criteria)


def grades_of(reply: str, criteria: Sequence[Criterion]) -> Grades | str:
    """The verdict in a reply, or what is wrong with it, for the judge to hear.

    Text around the object is passed over, since many models cannot leave it out; two objects that
    are both verdicts are none, for one of them may be quoted from the evidence.
    """
    found = [each for each in _objects(reply[:REPLY_LIMIT_CHARS]) if "grades" in each]
    if len(found) != 1:
        return (
            f"there are {len(found)} JSON objects with grades in it"
            if found
            else ('there is no JSON object with "grades" in it')
        )
    grades = found[0]["grades"]
    keys = [criterion.key for criterion in criteria]
    if not isinstance(grades, dict) or set(grades) != set(keys):
        return f"grades must hold exactly {', '.join(keys)}"
    for key, value in grades.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            return f"the grade of {key} must be a number from 0 to 1"
    reasoning = str(found[0].get("reasoning", ""))
    return Grades({key: float(value) for key, value in grades.items()}, reasoning)


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            found.append(value)
    return found
