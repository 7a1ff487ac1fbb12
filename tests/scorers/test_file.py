"""The file scorer: what it takes for the same, and what a hostile file cannot do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.aio import Deadline
from rollout.config import EngineConf
from rollout.errors import ConfigError
from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine
from rollout.scorers import file as scoring
from rollout.scorers.base import Verdict
from rollout.scorers.file import File
from rollout.types import Blueprint, Task, Tree

TASK = Task(
    id="t", instruction="x", tests=Tree.of({"gold.json": '{"a": [1, 2.5]}', "bin": b"\xff"})
)


async def boxed(engine: Engine) -> AsyncIterator[Sandbox]:
    await engine.start()
    try:
        yield await engine.create(SandboxSpec(image=await engine.build(Blueprint())))
    finally:
        await engine.close()


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async for made in boxed(MemoryEngine()):
        yield made


@pytest.fixture
async def real_box(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async for made in boxed(NativeEngine(EngineConf(root_dir=str(tmp_path / "engine")))):
        yield made


async def judged(box: Sandbox, content: bytes | None, **settings: Any) -> Verdict:
    if content is not None:
        await box.write_file("/out", content)
    scorer = File(path="/out", **settings)
    assert scorer.problems(TASK) is None
    return await scorer.score(TASK, box, Deadline.after(60))


@pytest.mark.parametrize(
    ("content", "settings", "reward"),
    [
        (b"hello\n", {"gold": "hello"}, 1.0),
        (b"hello there", {"gold": "hello"}, 0.0),
        (b"answer: 42\n", {"compare": "regex", "gold": r"answer:\s*42\b"}, 1.0),
        (b"answer: 421\n", {"compare": "regex", "gold": r"answer:\s*42\b"}, 0.0),
        (b'{"b": 1, "a": [2]}', {"compare": "json", "gold": '{"a": [2.0], "b": 1}'}, 1.0),
        (b'{"a": true}', {"compare": "json", "gold": '{"a": 1}'}, 0.0),
        (b"[1.1]", {"compare": "json", "gold": "[1]", "tolerance": 0.2}, 1.0),
        (b"[1.3]", {"compare": "json", "gold": "[1]", "tolerance": 0.2}, 0.0),
        (b"[1, 1]", {"compare": "json", "gold": "[1]"}, 0.0),
        (b'{"a": 1, "b": 2}', {"compare": "json", "gold": '{"a": 1}', "keys": ["a"]}, 1.0),
        (b'{"b": 2}', {"compare": "json", "gold": '{"a": 1}', "keys": ["a"]}, 0.0),
        (b'{"a": [1, 2.5]}', {"compare": "json", "gold_file": "gold.json"}, 1.0),
        (b"a\nb\nc\nd\n", {"compare": "diff", "gold": "a\nb\nc\nd"}, 1.0),
        (b"a\nx\nc\nd\n", {"compare": "diff", "gold": "a\nb\nc\nd"}, 0.75),
        (b"", {"compare": "diff", "gold": "a"}, 0.0),
        (None, {"gold": "hello"}, 0.0),
        (b"\xff", {"gold": "hello"}, 0.0),
        (b"[NaN]", {"compare": "json", "gold": "[1]"}, 0.0),
        (b"[" * 100_000, {"compare": "json", "gold": "[1]"}, 0.0),
        (b"1" * 400, {"compare": "json", "gold": "1.5", "tolerance": 9.0}, 0.0),
        (b"1" * 5_000, {"compare": "json", "gold": "1"}, 0.0),
        (b"a\n" * 6_000, {"compare": "diff", "gold": "a"}, 0.0),
        (b"x" * (scoring.LIMIT_BYTES + 1), {"gold": "hello"}, 0.0),
    ],
)
async def test_what_is_the_same(
    box: Sandbox, content: bytes | None, settings: dict[str, Any], reward: float
) -> None:
    verdict = await judged(box, content, **settings)
    assert verdict.reward == verdict.scores[0].value == reward
    assert verdict.output.startswith("/out: ")


async def test_an_expression_without_an_end_costs_its_time_and_no_more(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "COMPARE_TIMEOUT_S", 0.5)
    verdict = await judged(box, b"a" * 60 + b"!", compare="regex", gold="(a+)+$")
    assert (verdict.reward, "more than 0.5 s" in verdict.output) == (0.0, True)


@pytest.mark.native
@pytest.mark.parametrize("what", ["mkfifo /out", "mkdir /out", "ln -s /dev/zero /out"])
async def test_what_is_no_file_is_a_zero(real_box: Sandbox, what: str) -> None:
    assert (await real_box.exec(["sh", "-c", what])).ok
    verdict = await judged(real_box, None, gold="hello")
    assert verdict.reward == 0.0
    assert "cannot be read" in verdict.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "out", "gold": "x"}, "scorer.path"),
        ({"path": "/out"}, "scorer.gold"),
        ({"path": "/out", "gold": "x", "gold_file": "y"}, "scorer.gold"),
        ({"path": "/out", "gold": "(", "compare": "regex"}, "cannot be read as regex"),
        ({"path": "/out", "gold": "{", "compare": "json"}, "cannot be read as json"),
        ({"path": "/out", "gold": "x", "compare": "same"}, "none of exact, regex, json, diff"),
        ({"path": "/out", "gold": "x", "tolerance": float("nan")}, "scorer.tolerance"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        File(**settings)


@pytest.mark.parametrize(
    ("gold_file", "said"), [("other", "its tests hold no other"), ("bin", "bin: is no text")]
)
def test_a_gold_that_is_not_there_is_told_before_the_start(gold_file: str, said: str) -> None:
    assert said in (File(path="/out", gold_file=gold_file).problems(TASK) or "")
