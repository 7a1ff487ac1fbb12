"""Generated shell tasks of five kinds: read a file, count its lines, find it, rename it, edit it.

Each is worked on in a computer of its own and checked by a command of its own, as any task is.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollout.errors import ConfigError
from rollout.learning.words import FILES
from rollout.types import Blueprint, BuildStep, ScoreMode, Task, Tree, Verifier

WORKDIR = "/app"
COLOURS = ("green", "yellow", "black", "white")
FOLDERS = ("docs", "src", "notes")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is there at first, and how to tell that it was solved."""

    instruction: str
    files: Mapping[str, str]
    check: str


Kind = Callable[[str, random.Random], Problem]


class ShellTasks:
    """As many of each kind as of the others; the same ones for the same seed."""

    def __init__(self, *, count: int = 30, seed: int = 0) -> None:
        """
        count: how many; up to 30 are all different in kind or file.
        seed: of the files' texts.
        """
        if count < 1:
            raise ConfigError(f"task.count: must be above 0, was {count}")
        self._count, self._seed = count, seed
        self.skipped: list[str] = []

    def load(self) -> list[Task]:
        return [self._task(number) for number in range(self._count)]

    def _task(self, number: int) -> Task:
        kind = list(KINDS)[number % len(KINDS)]
        name = FILES[number // len(KINDS) % len(FILES)]
        problem = KINDS[kind](name, random.Random(f"{self._seed}-{number}"))
        put = BuildStep(op="put", dest=WORKDIR, tree=Tree.of(problem.files))
        return Task(
            id=f"{kind}-{name.removesuffix('.txt')}-{number}",
            instruction=problem.instruction,
            blueprint=Blueprint(steps=(BuildStep(op="workdir", dest=WORKDIR), put)),
            verifier=Verifier(mode=ScoreMode.FORK, timeout_s=60, command=problem.check),
            agent_timeout_s=60,
            dataset="shell_words",
        )


def _files(rng: random.Random) -> dict[str, str]:
    """No two of one length: else a policy is paid for the lines of the wrong file, and learns it.

    `red` is in the first line of each alone.
    """
    lengths = rng.sample(range(1, 3 * len(FILES)), len(FILES))
    return {name: _text(length, rng) for name, length in zip(FILES, lengths, strict=True)}


def _text(lines: int, rng: random.Random) -> str:
    colours = ["red", *rng.choices(COLOURS, k=lines - 1)]
    return "".join(f"{colour} {rng.randrange(1_000_000)}\n" for colour in colours)


def _read(name: str, rng: random.Random) -> Problem:
    return Problem(f"read {name} : write its text to out", _files(rng), f"cmp -s out {name}")


def _count(name: str, rng: random.Random) -> Problem:
    files = _files(rng)
    check = f'[ "$(cut -d " " -f 1 out)" = {len(files[name].splitlines())} ]'
    return Problem(f"count the lines of {name} : write the number to out", files, check)


def _find(name: str, rng: random.Random) -> Problem:
    folder, files = rng.choice(FOLDERS), _files(rng)
    files[f"{folder}/{name}"] = files.pop(name)
    check = f'[ "$(cat out)" = ./{folder}/{name} ]'
    return Problem(f"find {name} : write its path to out", files, check)


def _rename(name: str, rng: random.Random) -> Problem:
    files = _files(rng)
    check = f"[ ! -e {name} ] && printf '%s' '{files[name]}' | cmp -s - new-{name}"
    return Problem(f"rename {name} to new- {name}", files, check)


def _edit(name: str, rng: random.Random) -> Problem:
    files = _files(rng)
    check = f"printf '%s' '{files[name].replace('red', 'blue')}' | cmp -s - {name}"
    return Problem(f"edit {name} : red becomes blue", files, check)


KINDS: Mapping[str, Kind] = {
    "read": _read,
    "count": _count,
    "find": _find,
    "rename": _rename,
    "edit": _edit,
}
