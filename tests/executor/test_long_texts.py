"""Long texts of messages: beside the dataset, with head and tail in the row, and whole again."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rollout.config import StoreConf
from rollout.dataset.long_texts import whole
from rollout.dataset.reader import open_dataset
from rollout.dataset.store import LocalStore
from rollout.dataset.writer import row_bytes
from rollout.errors import StoreError
from rollout.executor.local import LocalExecutor
from rollout.executor.long_texts import shortened
from rollout.types import Artifact, Message, ToolCall, Trajectory
from tests.dataset.examples import a_row
from tests.executor.plans import assert_complete, make_arm, make_plan

LONG = "ä" + "x" * 100_000 + "z"
CALL = ToolCall(id="1", name="bash", arguments='{"command": "ls"}')
MESSAGES = (
    Message(role="user", content="short"),
    Message(role="tool", content=LONG, content_parts=json.dumps([{"type": "text", "text": LONG}])),
    Message(
        role="assistant",
        reasoning_content=LONG[::-1],
        tool_calls=(CALL, replace(CALL, arguments=json.dumps({"command": LONG}))),
    ),
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def put_beside(store: LocalStore, row: Trajectory, texts: dict[str, str]) -> Trajectory:
    """As a worker does."""
    kept = []
    for name, text in texts.items():
        data = text.encode()
        store.put_if_absent(f"artifacts/{name}", data)
        digest = hashlib.sha256(data).hexdigest()
        kept.append(Artifact(name=name, uri=f"artifacts/{name}", sha256=digest, bytes=len(data)))
    return replace(row, artifacts=tuple(kept))


def test_what_is_taken_out_comes_back(store: LocalStore) -> None:
    row = replace(a_row("a"), messages=MESSAGES)
    short, texts = shortened(row, 1000)
    assert sorted(texts) == [
        "messages/1.content.txt",
        "messages/1.content_parts.txt",
        "messages/2.arguments-1.txt",
        "messages/2.reasoning_content.txt",
    ]
    assert row_bytes(short) < 4000
    assert whole(store, put_beside(store, short, texts)).messages == MESSAGES


def test_what_stays_has_head_and_tail_and_is_still_json() -> None:
    short, _ = shortened(replace(a_row("a"), messages=MESSAGES), 1000)
    first, observed, said = short.messages
    assert first == MESSAGES[0]
    assert observed.content.startswith("äx")
    assert observed.content.endswith("xz")
    assert "99752 characters left out" in observed.content
    (part,) = json.loads(observed.content_parts or "")
    assert "characters left out" in part["text"]
    assert said.tool_calls[0] == CALL
    assert "characters left out" in json.loads(said.tool_calls[1].arguments)


def test_a_row_of_short_texts_stays_as_it_is() -> None:
    row = a_row("a", text="x" * 1000)
    assert shortened(row, 1000) == (row, {})


def test_a_text_that_was_changed_or_is_gone_is_an_error(store: LocalStore) -> None:
    row = put_beside(store, *shortened(a_row("a", text=LONG), 1000))
    (artifact,) = row.artifacts
    (store.root / artifact.uri).write_text("other")
    with pytest.raises(StoreError, match="was changed"):
        whole(store, row)
    store.delete(artifact.uri)
    with pytest.raises(StoreError, match="is gone"):
        whole(store, row)


async def test_a_large_rollout_weighs_no_more_than_its_neighbours(tmp_path: Path) -> None:
    """Two of 16 MB among small ones: parts and buffers see nothing of it, and all of it is kept."""
    loud = make_arm("loud", "tests.executor.agents.Talker", kb=16 << 10)
    quiet = make_arm("quiet", "tests.executor.agents.Talker", kb=1)
    plan = make_plan(tmp_path, [loud, quiet], tasks=1, samples=2, workers=1)
    plan = replace(plan, store=StoreConf(flush_s=0.2, inline_kb=16))
    looks = [look async for look in LocalExecutor().run(plan)]
    assert max(look.counts.get("buffered_mb", 0.0) for look in looks) < 0.1
    assert_complete(plan)
    with open_dataset(plan.run_uri) as dataset:
        assert sum(part.bytes for part in dataset.state.parts.values()) < 1 << 20
        rows = {row.spec.trajectory_id: row for row in dataset.trajectories()}
        for row in rows.values():
            size = len(dataset.whole(row).messages[0].content)
            assert size == (16 << 20 if row.spec.arm == "loud" else 1 << 10)
            assert len(row.messages[0].content) < 5000
        told = [len(chat["messages"][0]["content"]) for chat in dataset.to_sft()]
    assert sorted(told) == [1 << 10, 1 << 10, 16 << 20, 16 << 20]
