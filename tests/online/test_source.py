"""`rollout.RolloutSource` on both executors: real workers, a real dataset, a trainer that dies."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rollout import RolloutSource
from rollout.dataset import tail
from rollout.dataset.base import Part
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError, RolloutError
from rollout.types import Group

pytestmark = pytest.mark.native

TASKS = ("a", "b", "c", "d")
SCRIPT = {
    "rules": [
        {"when": "make a", "share": 0.5, "turns": [{"run": "touch a"}, {"text": "Done."}]},
        {"turns": [{"text": "I do not know."}]},
    ]
}
Words = Callable[..., list[str]]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> Words:
    """A config of four tasks, of which one is solved by half of its rollouts."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return lambda *more: [*config_of(tmp_path), f"executor={request.param}", *more]


def config_of(folder: Path) -> list[str]:
    rows = [
        {"id": name, "instruction": f"make {name}", "command": f"test -e {name}"} for name in TASKS
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    return [
        "task=jsonl",
        f"task.path={folder}/tasks.jsonl",
        "scorer=command",
        "agent=bash",
        "model=scripted",
        f"model.script={folder}/script.json",
        "model.capture=tokens",
        f"store.uri={folder}/runs",
        "store.flush_s=0.1",
        "engine=native",
        f"engine.root_dir={folder}/engine",
        "executor.dashboard=false",
        "samples=4",
        "name=online",
    ]


def ids(groups: list[Group]) -> list[str]:
    return [group.group_id for group in groups]


async def test_what_is_submitted_comes_whole_and_is_in_the_dataset(words: Words) -> None:
    async with RolloutSource(words()) as source:
        assert source.tasks == TASKS
        await source.update_policy(7)
        await source.submit(["a", "b"])
        await source.submit("a", n=2)
        groups = [group async for group in source.groups()]
        assert sorted((g.task_id, g.size, len(g.trajectories)) for g in groups) == [
            ("a", 2, 2),
            ("a", 4, 4),
            ("b", 4, 4),
        ]
        assert len(set(ids(groups))) == 3, "a task asked for twice is two groups"
        assert {g.oldest_version for g in groups} == {7}
        assert source.taken.accepted == 3
    with open_dataset(source.uri) as dataset:
        assert dataset.state.finished
        assert {g.group_id: g for g in dataset.groups()} == {g.group_id: g for g in groups}


async def test_a_sampler_and_admission_keep_a_batch_ahead_and_no_more(words: Words) -> None:
    config = words("sampler=uniform", "online.batch=2", "online.max_staleness=0", "samples=2")
    async with RolloutSource(config) as source:
        seen: list[Group] = []
        versions = []
        async for batch in source.batches():
            seen += batch
            versions.append({group.oldest_version for group in batch})
            assert source.progress is not None
            with open_dataset(source.uri) as dataset:
                assert dataset.state.rows() == 4 * len(versions), "nothing was begun ahead of time"
            if len(versions) == 3:
                break
            await source.update_policy(len(versions))
    assert sorted(group.task_id for group in seen[:4]) == sorted(TASKS), "each before any twice"
    assert len(set(ids(seen))) == 6
    assert versions == [{None}, {1}, {2}]


async def test_a_trainer_that_dies_comes_back_from_its_checkpoint_and_sees_nothing_twice(
    words: Words,
) -> None:
    config = words("sampler=uniform", "online.batch=2", "online.max_staleness=1", "samples=2")
    first = RolloutSource(config)
    async with first:
        given = [ids([group])[0] async for group in _some(first, 3)]
        checkpoint = json.loads(json.dumps(first.state_dict()))
        lost = [ids([group])[0] async for group in _some(first, 1)]
    second = RolloutSource(config)
    second.load_state_dict(checkpoint)
    async with second:
        await second.update_policy(1)
        again = [ids([group])[0] async for group in _some(second, 3)]
    assert len(set(given + again)) == 6, "what the checkpoint knows of does not come again"
    assert lost[0] in again, "what came after it does"
    with open_dataset(second.uri) as dataset:
        rows = dataset.scan(["trajectory_id"]).column("trajectory_id").to_pylist()
        assert len(set(rows)) == len(rows)


async def test_a_sampler_counts_each_rollout_once_whichever_life_it_came_in(
    tmp_path: Path,
) -> None:
    config = [*config_of(tmp_path), "executor=local", "sampler=uniform", "online.batch=2"]
    first = RolloutSource([*config, "samples=2"])
    async with first:
        _ = [group async for group in _some(first, 1)]
        checkpoint = json.loads(json.dumps(first.state_dict()))
        drawn = {task: first._history.drawn(task) for task in TASKS}
        _ = [group async for group in _some(first, 2)]  # which the checkpoint does not know of
    second = RolloutSource([*config, "samples=2"])
    second.load_state_dict(checkpoint)
    async with second:
        assert {task: second._history.drawn(task) for task in TASKS} == drawn
        _ = [group async for group in _some(second, 3)]
        counted = sum(len(second._history.rewards(task)) for task in TASKS)
    assert counted == 2 * (1 + 3)


async def test_a_trainer_that_begins_anew_gets_new_groups(words: Words) -> None:
    async with RolloutSource(words()) as source:
        await source.submit("a")
        before = [group async for group in source.groups()]
    async with RolloutSource(words()) as source:
        await source.submit("a")
        after = [group async for group in source.groups()]
    assert len({*ids(before), *ids(after)}) == 2
    assert [group.task_id for group in after] == ["a"]


@pytest.mark.ray
async def test_on_ray_rows_come_through_its_object_store(
    ray_cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(part: Part, *_: object) -> None:
        raise AssertionError(f"{part.path} was read from the store")

    async with RolloutSource([*config_of(tmp_path), "executor=ray"]) as source:
        with monkeypatch.context() as patched:
            patched.setattr(tail, "read_part", unread)
            await source.submit(["a", "b"])
            groups = [group async for group in source.groups()]
    with open_dataset(source.uri) as dataset:
        assert {g.group_id: g for g in dataset.groups()} == {g.group_id: g for g in groups}


async def test_groups_of_a_life_that_the_checkpoint_does_not_know_are_dropped(
    tmp_path: Path,
) -> None:
    """They were sampled by weights that the trainer that came back has yet to make."""
    config = [*config_of(tmp_path), "executor=local", "online.batch=1", "online.max_staleness=0"]
    first = RolloutSource(config)
    async with first:
        await first.update_policy(1)
        await first.submit(["a", "b"])
        (a,) = [group async for group in _some(first, 1)]
        checkpoint = json.loads(json.dumps(first.state_dict()))
        await first.update_policy(5)
        (b,) = [group async for group in _some(first, 1)]
        assert [(g.task_id, g.newest_version) for g in (a, b)] == [("a", 1), ("b", 5)]
    second = RolloutSource(config)
    second.load_state_dict(checkpoint)
    async with second:
        await second.update_policy(2)
        assert [group async for group in second.groups()] == []
        assert (second.taken.accepted, second.taken.stale) == (0, 1)


async def test_stale_groups_are_dropped_and_those_that_the_trainer_refuses(tmp_path: Path) -> None:
    config = [*config_of(tmp_path), "executor=local", "samples=2"]
    async with RolloutSource(config) as source:
        await source.update_policy(1)
        await source.submit("a")
        await source.submit("b")
        one = [group async for group in _some(source, 1)]
        await source.update_policy(5)
        rest = [group async for group in source.groups(max_staleness=3)]
        assert (len(one), rest) == (1, [])
        assert source.taken.stale == 1
        await source.submit("c")
        kept = [group async for group in source.groups(accept=lambda group: group.task_id != "c")]
        assert kept == []
        assert source.taken.refused == 1


async def test_weights_that_change_in_the_middle_of_a_rollout_show_in_its_spans(
    words: Words, tmp_path: Path
) -> None:
    seconds = f"4.0{random.randrange(10**6):06}"  # no other test has this one
    waits = {"turns": [{"run": f"sleep {seconds}; touch a"}, {"text": "Done."}]}
    config = words("samples=2")
    (tmp_path / "script.json").write_text(json.dumps({"rules": [waits]}))
    async with RolloutSource(config) as source:
        await source.update_policy(3)
        await source.submit("a")
        while await asyncio.to_thread(_running, f"sleep\0{seconds}\0") < 2:
            await asyncio.sleep(0.05)
        await source.update_policy(4)
        (group,) = [group async for group in source.groups()]
        assert (group.oldest_version, group.newest_version) == (3, 4)
        (sequences,) = {len(row.sequences) for row in group.trajectories}
        assert sequences == 1
        for row in group.trajectories:
            assert (row.policy_version_min, row.policy_version_max) == (3, 4)
            sampled = [span for span in row.sequences[0].spans if span.kind == "sampled"]
            assert [span.policy_version for span in sampled] == [3, 4]
        assert source.taken.accepted == 1, "one behind is not too old"


def _running(command_line: str) -> int:
    """Processes of the machine with this command line."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_text(errors="replace") == command_line
    return found


async def test_what_cannot_be_is_said_before_anything_starts(tmp_path: Path) -> None:
    config = [*config_of(tmp_path), "executor=local"]
    with pytest.raises(ConfigError, match=r"online\.batch: must be given with a sampler"):
        await RolloutSource([*config, "sampler=uniform"]).__aenter__()
    with pytest.raises(ConfigError, match="a trainer has one arm"):
        await RolloutSource([*config, "+sweep.budget.turns=[1,2]"]).__aenter__()
    async with RolloutSource(config) as source:
        with pytest.raises(ConfigError, match="'e' is no task of this source"):
            await source.submit("e")
        with pytest.raises(RolloutError, match="open already"):
            source.load_state_dict(source.state_dict())
        await source.update_policy(2)
        with pytest.raises(RolloutError, match="not above 2"):
            await source.update_policy(2)


async def test_a_run_that_ends_under_the_trainer_is_its_error(tmp_path: Path) -> None:
    config = [word for word in config_of(tmp_path) if not word.startswith("model")]
    config += ["executor=local", "samples=40", "retry.max_attempts=1", "model=openai"]
    config += ["model.name=none", "model.urls=[http://127.0.0.1:9/v1]", "model.patience_s=0.1"]
    async with RolloutSource(config) as source:
        await source.submit(TASKS)
        with pytest.raises(RolloutError, match=r"has ended: .* attempts failed by us"):
            _ = [group async for group in source.groups()]


async def _some(source: RolloutSource, count: int) -> AsyncIterator[Group]:
    async for group in source.groups():
        yield group
        count -= 1
        if not count:
            return
