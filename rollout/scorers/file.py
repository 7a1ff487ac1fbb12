"""A file of the end state against what it should be."""

import asyncio
import difflib
import json
import math
import re
import sys
from typing import Any

from rollout.aio import Deadline
from rollout.errors import ConfigError, SandboxError, SandboxLost, ScoreError
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Verdict
from rollout.transcript import clip
from rollout.types import Score, Task

COMPARE = ("exact", "regex", "json", "diff")
LIMIT_BYTES = 1 << 20
"""Of the file; a longer one is not what was asked for."""
DIFF_LINES = 5_000
"""Comparing takes time with the square of it."""
COMPARE_TIMEOUT_S = 10.0
"""Of an expression or a comparison of lines: what the agent wrote may make it take for ever."""
DEPTH = 100


class File:
    """Reward 1 where the file is as it should be, 0 where it is not, or is not there.

    `exact` compares text, without white space at both ends. `regex` must be found in it. `json`
    compares values, numbers within `tolerance`; with `keys` only those of the top level. `diff`
    gives the share of lines that are the same, 0 to 1.
    """

    def __init__(
        self,
        *,
        path: str,
        compare: str = "exact",
        gold: str | None = None,
        gold_file: str | None = None,
        tolerance: float = 0.0,
        keys: list[str] | None = None,
        name: str = "file",
    ) -> None:
        """
        path: in the sandbox, absolute.
        gold: what it should be; for `regex` the expression.
        gold_file: in place of `gold`, a file among the task's tests.
        """
        if not path.startswith("/"):
            raise ConfigError(f"scorer.path: {path!r} is no absolute path of the sandbox")
        if compare not in COMPARE:
            raise ConfigError(f"scorer.compare: {compare!r} is none of {', '.join(COMPARE)}")
        if (gold is None) == (gold_file is None):
            raise ConfigError("scorer.gold: give it, or scorer.gold_file, and not both")
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ConfigError(f"scorer.tolerance: {tolerance!r} is no number from 0 on")
        self._path, self._compare, self._name = path, compare, name
        self._gold, self._gold_file = gold, gold_file
        self._tolerance, self._keys = tolerance, keys
        if gold is not None and (problem := self._gold_problem(gold)):
            raise ConfigError(f"scorer.gold: {problem}")

    def problems(self, task: Task) -> str | None:
        """Why the task cannot be scored this way, known before anything runs."""
        if self._gold_file is None:
            return None
        content = task.tests.files().get(self._gold_file)
        if content is None:
            return f"task {task.id}: its tests hold no {self._gold_file}, which is scorer.gold_file"
        try:
            problem = self._gold_problem(content.decode())
        except UnicodeDecodeError:
            problem = "is no text"
        return f"task {task.id}: {self._gold_file}: {problem}" if problem else None

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        gold = self._gold
        if gold is None:
            gold = task.tests.files()[self._gold_file or ""].decode()
        try:
            data = await sandbox.read_file(self._path, limit_bytes=LIMIT_BYTES)
            value, why = await self._like(gold, data.decode())
        except FileNotFoundError:
            value, why = 0.0, "it is not there"
        except UnicodeDecodeError:
            value, why = 0.0, "it is no text"
        except SandboxLost:
            raise
        except SandboxError as exc:
            # A fifo, a folder, a file without an end: the agent was asked for a file.
            value, why = 0.0, f"it cannot be read: {exc}"
        return Verdict(
            reward=value,
            scores=(Score(name=self._name, value=value),),
            output=f"{self._path}: {why}",
        )

    # ---------------------------------------------------------------- comparing

    def _gold_problem(self, gold: str) -> str | None:
        try:
            if self._compare == "regex":
                re.compile(gold)
            if self._compare == "json":
                read_json(gold)
        except (re.error, ValueError) as exc:
            return f"cannot be read as {self._compare}: {exc}"
        return None

    async def _like(self, gold: str, text: str) -> tuple[float, str]:
        if self._compare == "exact":
            return _told(gold.strip() == text.strip(), text)
        if self._compare in ("regex", "diff"):
            return await _aside(self._compare, gold, text)
        try:
            found = read_json(text)
        except ValueError as exc:
            return 0.0, f"it is no JSON: {exc}"
        wanted = read_json(gold)
        if self._keys is not None:
            found, wanted = _only(found, self._keys), _only(wanted, self._keys)
        return _told(alike(wanted, found, self._tolerance), text)


async def _aside(compare: str, gold: str, text: str) -> tuple[float, str]:
    """In a process of its own, which can be ended: an expression holds up whoever runs it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"from {__name__} import child; child()"),
        stdin=pipe,
        stdout=pipe,
    )
    try:
        async with asyncio.timeout(COMPARE_TIMEOUT_S):
            told, _ = await process.communicate(json.dumps([compare, gold, text]).encode())
    except TimeoutError:
        return 0.0, f"comparing it took more than {COMPARE_TIMEOUT_S:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ScoreError(f"comparing by {compare} ended with code {process.returncode}")
    value, why = json.loads(told)
    return float(value), str(why)


def child() -> None:
    """What that process does."""
    compare, gold, text = json.load(sys.stdin)
    if compare == "regex":
        told = _told(re.search(gold, text) is not None, text)
    else:
        told = _same_lines(gold, text)
    json.dump(told, sys.stdout)


def _told(same: bool, text: str) -> tuple[float, str]:
    return (1.0, "as it should be") if same else (0.0, f"it holds {clip(text, 2_000)!r}")


def _same_lines(gold: str, text: str) -> tuple[float, str]:
    one, other = gold.strip().splitlines(), text.strip().splitlines()
    if max(len(one), len(other)) > DIFF_LINES:
        return 0.0, f"it has {len(other)} lines; up to {DIFF_LINES} are compared"
    ratio = difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
    changes = "\n".join(difflib.unified_diff(one, other, "gold", "found", lineterm=""))
    return ratio, f"{ratio:.3f} of the lines are the same\n{clip(changes, 4_000)}"


def _only(value: Any, keys: list[str]) -> Any:
    return {key: value[key] for key in keys if key in value} if isinstance(value, dict) else value


def read_json(text: str) -> Any:
    """A value; ValueError for what is none, NaN and nesting without end among it."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc


def alike(one: Any, other: Any, tolerance: float, depth: int = DEPTH) -> bool:
    """The same values; numbers within `tolerance`, true and 1 are two things."""
    if not depth:
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            alike(one[key], other[key], tolerance, depth - 1) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            alike(a, b, tolerance, depth - 1) for a, b in zip(one, other, strict=True)
        )
    if _is_number(one) and _is_number(other):
        return one == other or _close(one, other, tolerance)
    return type(one) is type(other) and bool(one == other)


def _close(one: float, other: float, tolerance: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=0.0, abs_tol=tolerance)
    except OverflowError:
        return False  # a whole number beyond any fraction


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
