"""How all that is wrong with all tasks becomes one message."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from rollout.errors import ConfigError

LINES_SHOWN = 50


class NeedsDaemon(ConfigError):
    """Something of a Dockerfile that no steps can say, so that a Docker daemon must build it."""


class Problems:
    """What is wrong with one task: a line each, beginning with the field it stands in."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, field: str, what: str) -> None:
        self.lines.append(f"{field}: {what}")

    def __bool__(self) -> bool:
        return bool(self.lines)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the few names there are, or nothing."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def lines_of(broken: Mapping[str, Sequence[str]]) -> list[str]:
    """`task: field: what` for every problem of every broken task."""
    return [f"{task}: {line}" for task, lines in broken.items() for line in lines]


def all_broken(source: str, broken: Mapping[str, Sequence[str]]) -> ConfigError:
    """The one error for every broken task of `source`; its length is bounded."""
    lines = lines_of(broken)
    shown = [f"  {line}" for line in lines[:LINES_SHOWN]]
    if len(lines) > LINES_SHOWN:
        shown.append(f"  … and {len(lines) - LINES_SHOWN} more")
    count = f"{len(broken)} task{'' if len(broken) == 1 else 's'}"
    return ConfigError(
        "\n".join(
            [
                f"{count} of {source} cannot be used as written:",
                *shown,
                "Change them, leave them out with task.exclude, or set task.on_error=skip.",
            ]
        )
    )
