"""Probes that are led from outside: bombs, hogs, floods, and whatever should have ended.

A drill is done on a sandbox with the wall it names, where it must be contained, and on one without
it, where it must do its harm. A bomb is small enough that a machine without walls survives it.
"""

import asyncio
import os
import re
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rollout.sandbox.base import ExecResult, Sandbox
from rollout.sandbox.walls import Wall
from tests.security.probes.probe import BROKEN, ESCAPED

CONTAINED = "contained"
PYTHON = "/usr/bin/python3"
MIB = 1 << 20
PATIENCE_S = 20.0
AT_ONCE = 3
DRILL_TIMEOUT_S = 60.0

Outcome = tuple[str, str]


class Makes(Protocol):
    """Makes a sandbox without these parts of the engine, `seccomp,net`, within these limits."""

    async def __call__(self, walls: str, **resources: Any) -> Sandbox: ...


@dataclass(frozen=True)
class Stage:
    """Where drills are done: sandboxes of one engine, all with their walls or all without."""

    make: Makes
    weak: bool
    places: tuple[Path, ...]
    """Folders of the host with what the engine keeps for its sandboxes, and with their logs."""
    upper: Callable[[Any], Awaitable[Path]] | None = None
    """Where else what one of them writes lies on the host."""
    ending: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def box(self, walls: str = "", **limits: Any) -> Sandbox:
        """With all walls and these limits; on the weak stage without them."""
        made = await (self.make(walls) if self.weak else self.make("", **limits))
        self.ending.push_async_callback(made.close)
        return made

    async def places_of(self, box: Sandbox) -> tuple[Path, ...]:
        """Where something of this sandbox might be found, even after its release."""
        return (*self.places, await self.upper(box)) if self.upper else self.places

    def names(self, places: tuple[Path, ...], what: str) -> list[str]:
        """Everything of the host that has it in its name: files, mounts, control groups."""
        folders = (*places, Path("/sys/fs/cgroup"))
        found = [
            f"{top}/{name}"
            for place in folders
            for top, below, files in os.walk(place)
            for name in (*below, *files)
            if what in name
        ]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return found + [line for line in mounts if what in line]


@dataclass(frozen=True)
class Drill:
    name: str
    wall: Wall
    run: Callable[[Stage], Awaitable[Outcome]]
    alone: bool
    """Others at the same time would be in what it measures."""


DRILLS: dict[str, Drill] = {}


def drill(
    wall: Wall, *, alone: bool = False
) -> Callable[[Callable[[Stage], Awaitable[Outcome]]], object]:
    def add(function: Callable[[Stage], Awaitable[Outcome]]) -> object:
        DRILLS[function.__name__] = Drill(function.__name__, wall, function, alone)
        return function

    return add


async def do_all(stage: Stage) -> dict[str, Outcome]:
    """A few at a time. What a drill stumbles over is no proof of anything: broken."""
    places = asyncio.Semaphore(AT_ONCE)

    async def attempt(each: Drill) -> Outcome:
        async with places:
            try:
                async with asyncio.timeout(DRILL_TIMEOUT_S):
                    return await each.run(stage)
            except Exception:  # noqa: BLE001 - whatever it is, it goes into the report
                return BROKEN, traceback.format_exc()

    async with stage.ending:
        alone = [each for each in DRILLS.values() if each.alone]
        others = [each for each in DRILLS.values() if not each.alone]
        outcomes = [await attempt(each) for each in alone]
        outcomes += await asyncio.gather(*map(attempt, others))
    return {each.name: came for each, came in zip(alone + others, outcomes, strict=True)}


def judged(harm: bool, seen: object) -> Outcome:
    return (ESCAPED if harm else CONTAINED), str(seen)[:500]


async def python(box: Sandbox, code: str, **settings: Any) -> ExecResult:
    return await box.exec([PYTHON, "-c", code], **{"timeout_s": PATIENCE_S, **settings})


def told(result: ExecResult) -> str:
    return f"exit {result.exit_code}: {result.stdout[-200:]!r} {result.stderr[-200:]!r}"


def number(result: ExecResult) -> int:
    """The last one it printed; 0 where it was ended before."""
    found = re.findall(rb"\d+", result.stdout)
    return int(found[-1]) if found else 0
