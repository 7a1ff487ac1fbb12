"""Whole rollouts whose sandbox's init turns hostile, while the agent works or while it is scored.

The rollout ends with a typed outcome that is ours and has no reward, in bounded time and memory;
nothing is left, and the next rollout of the same worker is as good as ever.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rollout.agents.base import Recorder
from rollout.episode import Bench
from rollout.sandbox import process, wire
from rollout.sandbox.base import Sandbox
from rollout.sandbox.client import InitClient
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.scorers.base import Verdict
from rollout.types import Outcome, Score, ScoreMode, StopReason, Task
from tests.sandbox.hostile_init import HostileInit, Play, hostile_init
from tests.sandbox.test_hostile_init import LIES, OK, STARTED, head, says_entry
from tests.security.test_archives import peak_memory
from tests.test_episode import FileScorer, roll, writes_out
from tests.test_episode_limits import limited, working

pytestmark = pytest.mark.native

DEADLINE_S = 0.3
"""Of every call to a hostile init; where a caller sets none it would be minutes."""
WHOLE_S = 60.0
MOST_MEMORY = 96 << 20
NAN = struct.pack("<d", float("nan"))

TURNS: dict[str, Play] = {
    **{
        name: LIES[name]
        for name in (
            "never answers",
            "closes at once",
            "4 GB of stdout",
            "4 GB of data",
            "half a frame of data",
            "floods of tiny stdout",
            "names without end",
            "deep names without end",
            "descriptors without end",
        )
    },
    "an exit of nan": Play(STARTED + wire.frame(wire.Out.EXIT, NAN)),
    "an exit with flags that there are not": Play(
        STARTED + wire.frame(wire.Out.EXIT, struct.pack("<iI", 0, 0xFFFFFFFF))
    ),
    "stalls in the middle of a tree": Play(says_entry(b"f") + head(wire.Out.DATA, 500)),
}
FINE = Play(OK, again=True)
"""All is well, whatever is asked."""
MODES = [ScoreMode.FORK, ScoreMode.FRESH, ScoreMode.SHARED]
OURS = {Outcome.SANDBOX_LOST, Outcome.SCORING_ERROR, Outcome.SETUP_ERROR}


class HurriedClient(InitClient):
    """With a short deadline for the calls that episodes make without one."""

    async def kill_all(self, **settings: Any) -> None:
        await super().kill_all(timeout_s=DEADLINE_S)

    async def get_tree(self, path: str, **settings: Any) -> Any:
        return await super().get_tree(path, **{**settings, "timeout_s": DEADLINE_S})

    async def put_tree(self, tree: Any, dest: str, **settings: Any) -> None:
        await super().put_tree(tree, dest, **{**settings, "timeout_s": DEADLINE_S})

    async def exec(self, argv: Any, **settings: Any) -> Any:
        return await super().exec(argv, **{**settings, "timeout_s": DEADLINE_S})


def turn(box: Sandbox, liar: HostileInit) -> None:
    """From here on the sandbox's init is the hostile one."""
    assert isinstance(box, NativeSandbox)
    box._client = HurriedClient(liar.path)


class HostileScene(FileScorer):
    """Scores in a sandbox whose init has turned."""

    def __init__(self, liar: HostileInit) -> None:
        super().__init__()
        self._liar = liar

    async def score(self, task: Task, sandbox: Sandbox, deadline: Any) -> Verdict:
        turn(sandbox, self._liar)
        return await super().score(task, sandbox, deadline)


class ContentScorer:
    """1.0 for what `writes_out` writes: an init that lies may well bring about an empty folder."""

    async def score(self, task: Task, sandbox: Sandbox, deadline: Any) -> Verdict:
        there = (await sandbox.exec(["grep", "-qx", "done", "/app/out"])).ok
        return Verdict(reward=float(there), scores=(Score(name="out", value=float(there)),))


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileInit]:
    with hostile_init(tmp_path_factory.mktemp("liar")) as made:
        yield made


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(process, "GRACE_S", 0.05)
    async with working(tmp_path) as made:
        yield made


async def agent_meets(liar: HostileInit, box: Sandbox, record: Recorder) -> StopReason:
    await writes_out(box, record)
    turn(box, liar)
    await box.exec(["true"])
    return StopReason.COMPLETED


@pytest.mark.parametrize("mode", MODES)
async def test_whatever_an_init_says_the_rollout_ends_and_the_next_is_fine(
    bench: Bench, liar: HostileInit, mode: ScoreMode, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    for name, play in TURNS.items():
        liar.plays(play)
        Path("/proc/self/clear_refs").write_text("5")
        held = peak_memory()
        async with asyncio.timeout(WHOLE_S):
            rows = [await roll(bench, partial(agent_meets, liar), task=limited(mode))]
            if mode is ScoreMode.FORK:  # what a scorer meets is the same in each
                rows.append(await roll(bench, scorer=HostileScene(liar), task=limited(mode)))
        assert peak_memory() - held < MOST_MEMORY, name
        for row in rows:
            assert (row.outcome in OURS, row.reward, bool(row.error_message)) == (
                True,
                None,
                True,
            ), (name, row.outcome, row.reward)
        assert bench.pool.counts()["claimed"] == 0, name
    honest = await roll(bench, task=limited(mode))
    assert (honest.outcome, honest.reward) == (Outcome.OK, 1.0)
    assert outside.read_text() == "untouched"


@pytest.mark.parametrize("mode", [ScoreMode.FORK, ScoreMode.FRESH])
async def test_an_init_that_says_all_is_well_buys_no_reward(
    bench: Bench, liar: HostileInit, mode: ScoreMode
) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        turn(box, liar)
        return StopReason.COMPLETED

    liar.plays(FINE)
    row = await roll(bench, act, scorer=ContentScorer(), task=limited(mode))
    assert not row.reward
    assert (row.reward is None) == (row.outcome in OURS)
    liar.plays(Play())
    honest = await roll(bench, scorer=ContentScorer(), task=limited(mode))
    assert (honest.outcome, honest.reward) == (Outcome.OK, 1.0)
