"""Rows and groups while the run goes on: each once, in order, from any cursor, whatever happens."""

import random
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from rollout.dataset.compaction import Compacted, compact
from rollout.dataset.log import CommitLog
from rollout.dataset.parts import make_part
from rollout.dataset.reader import RolloutDataset
from rollout.dataset.rows import to_batch
from rollout.dataset.sequence_rows import from_sequence_table, to_sequence_table
from rollout.dataset.store import LocalStore
from rollout.errors import StoreError
from rollout.types import Outcome, Sequence, Span, Trajectory
from tests.dataset.examples import a_row, request_for

DAY = int(time.time()) // 86_400
SEEDS = range(5 * DAY, 5 * DAY + 5)
SIZE = 3


def sequence(*tokens: int) -> Sequence:
    return Sequence(
        role="main",
        token_ids=array("i", tokens),
        loss_mask=bytes([0, *(1 for _ in tokens[1:])]),
        logprobs=array("f", [0.0, *(-0.5 for _ in tokens[1:])]),
        spans=(
            Span(start=0, end=1, kind="prompt"),
            Span(start=1, end=len(tokens), kind="sampled", step=0, policy_version=7),
        ),
        finish_reason="stop",
        temperature=1.0,
        model_name="tiny",
        dropped=((1, (5, 6), (-1.0, -2.0)),),
    )


def member(group: str, sample: int, *, size: int = SIZE, reward: float | None = 1.0) -> Trajectory:
    made = a_row(f"{group}-{sample}", reward=reward, outcome=Outcome.OK)
    spec = replace(made.spec, group_id=group, sample=sample, group_size=size)
    return replace(made, spec=spec, sequences=(sequence(1, 2, sample), sequence(3, 4)))


class Run:
    """A run's log under one coordinator, with a writer's part for each commit."""

    def __init__(self, root: Path, format: str = "parquet") -> None:
        self.store = LocalStore(root)
        self.format = format
        self.log = CommitLog(self.store, "test")
        self.log.announce()
        self.parts = 0

    def commit(self, *rows: Trajectory) -> None:
        (reply,) = self.log.commit([self._request(*rows)], {})
        assert reply.accepted

    def commit_together(self, *many: list[Trajectory]) -> None:
        replies = self.log.commit([self._request(*rows) for rows in many], {})
        assert all(reply.accepted for reply in replies)

    def _request(self, *rows: Trajectory):
        self.parts += 1
        tables = {"trajectories": to_batch(rows), "sequences": to_sequence_table(rows)}
        made = []
        for name, table in tables.items():
            part, data = make_part(
                table, name=name, writer="w1", epoch=1, number=self.parts, format=self.format
            )
            self.store.put_if_absent(part.path, data)
            made.append(part)
        request = request_for(made[0], rows, epoch=self.log.epoch)
        return replace(request, parts=tuple(made))

    def compact(self, target_bytes: int) -> Compacted:
        """By somebody else, who takes the run over; it is taken back afterwards."""
        done = compact(self.store, target_bytes=target_bytes, owner="compact")
        self.log = CommitLog(self.store, "test")
        self.log.announce()
        return done

    def dataset(self) -> RolloutDataset:
        return RolloutDataset(self.store)


@pytest.fixture(params=["parquet", "arrow"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return Run(tmp_path, request.param)


def names(rows: Iterator[Trajectory]) -> list[str]:
    return [row.spec.trajectory_id for row in rows]


def test_sequences_come_back_as_they_were(run: Run) -> None:
    rows = [member("a", 0), member("b", 1)]
    table = to_sequence_table(rows)
    assert from_sequence_table(table.slice(0)) == {
        row.spec.trajectory_id: row.sequences for row in rows
    }
    assert from_sequence_table(table.slice(2)) == {"b-1": rows[1].sequences}


def test_each_row_comes_once_in_the_logs_order_with_its_sequences(run: Run) -> None:
    run.commit(member("a", 1), member("a", 0))
    run.commit_together([member("b", 0)], [member("a", 2)])
    rows = list(run.dataset().tail())
    assert names(iter(rows)) == ["a-1", "a-0", "b-0", "a-2"]
    assert rows[1].sequences == member("a", 0).sequences
    expected = [(row, sequence) for row in rows for sequence in row.sequences]
    assert list(run.dataset().sequences()) == expected


def test_a_cursor_goes_on_in_the_middle_of_a_commit_and_after_later_ones(run: Run) -> None:
    run.commit(member("a", 0), member("a", 1), member("a", 2))
    tail = run.dataset().tail()
    assert next(tail).spec.trajectory_id == "a-0"
    run.commit(member("b", 0))
    again = run.dataset().tail(tail.cursor)
    assert names(again) == ["a-1", "a-2", "b-0"]
    assert names(run.dataset().tail(again.cursor)) == []
    run.commit(member("b", 1))
    assert names(run.dataset().tail(again.cursor)) == ["b-1"]


def test_what_was_taken_back_comes_where_it_is_committed_again(run: Run) -> None:
    run.commit(member("a", 0), member("a", 1), member("a", 2))
    run.commit(member("b", 0))
    tail = run.dataset().tail()
    next(tail)
    run.log.retract(["a-0", "a-1", "b-0"])
    run.commit(member("a", 1))
    run.log.finish({})
    assert names(run.dataset().tail(tail.cursor)) == ["a-2", "a-1"]
    assert names(run.dataset().tail()) == ["a-2", "a-1"]


def test_a_part_that_goes_while_it_is_read_is_looked_up_again(run: Run) -> None:
    run.commit(member("a", 0), member("a", 1))
    run.commit(member("b", 0), member("b", 1))
    tail = run.dataset().tail()
    next(tail)
    run.log.retract(["b-1"])
    run.log.finish({})
    assert names(tail) == ["a-1", "b-0"]


def test_following_ends_with_the_run(run: Run) -> None:
    run.commit(member("a", 0))
    tail = run.dataset().tail(follow=True, poll_s=0.01)
    assert next(tail).spec.trajectory_id == "a-0"
    run.commit(member("a", 1))
    assert next(tail).spec.trajectory_id == "a-1"
    run.log.finish({})
    assert names(tail) == []


def test_a_snapshot_is_followed_no_further(run: Run) -> None:
    run.commit(member("a", 0))
    then = run.dataset().snapshot()
    run.commit(member("a", 1))
    assert names(then.tail()) == ["a-0"]


def test_compaction_keeps_rows_their_order_and_every_cursor(run: Run) -> None:
    for name in "abcd":
        run.commit(*(member(name, sample) for sample in range(SIZE)))
    run.log.retract(["b-1"])
    run.log.finish({"said": "so"})
    before = run.dataset().scan()
    tails = []
    for skipped in range(before.num_rows):
        tail = run.dataset().tail()
        first = [next(tail).spec.trajectory_id for _ in range(skipped)]
        tails.append((first, tail.cursor))
    in_use = run.dataset().tail()
    taken = [next(in_use).spec.trajectory_id]
    done = run.compact(1 << 26)
    assert (done.before, done.after) == (8, 2)
    assert run.dataset().scan().equals(before)
    order = names(run.dataset().tail())
    assert all(first + names(run.dataset().tail(cursor)) == order for first, cursor in tails)
    assert taken + names(in_use) == order
    assert all(row.sequences for row in run.dataset().tail())
    bare = pads.dataset(Path(run.dataset().uri) / "trajectories", format=run.format)
    assert bare.count_rows() == before.num_rows
    run.log.finish({})
    assert run.compact(1 << 26).after == 2, "nothing is left to merge"


def test_parts_are_merged_up_to_a_size(run: Run) -> None:
    for name in "abcdef":
        run.commit(member(name, 0))
    run.log.finish({})
    sizes = [part.bytes for part in run.log.state.parts.values() if part.table == "trajectories"]
    assert run.compact(sum(sizes[:2])).after == 2 + 3


def test_a_run_at_work_is_not_compacted(run: Run) -> None:
    run.commit(member("a", 0))
    run.commit(member("a", 1))
    with pytest.raises(StoreError, match="is not finished"):
        compact(run.store, target_bytes=1 << 26, owner="compact")
    run.commit(member("a", 2))


@pytest.mark.parametrize("cursor", ["", "1:2", "2:1:1", "1:-1:0", "x" * 1000])
def test_what_is_no_cursor_is_refused(run: Run, cursor: str) -> None:
    with pytest.raises(StoreError, match="no cursor"):
        run.dataset().tail(cursor)


def test_a_cursor_of_a_longer_run_is_refused(run: Run) -> None:
    with pytest.raises(StoreError, match="another run"):
        run.dataset().tail("1:77:1")


def test_a_group_comes_with_its_last_member_failed_ones_included(run: Run) -> None:
    run.commit(member("a", 0), member("b", 0))
    run.commit(member("b", 2), member("a", 2, reward=None), member("b", 1))
    groups = run.dataset().groups()
    (group,) = groups
    assert (group.group_id, group.complete) == ("b", True)
    assert [row.spec.sample for row in group.trajectories] == [0, 1, 2]
    assert group.trajectories[1].sequences == member("b", 1).sequences
    run.commit(member("a", 1))
    (later,) = run.dataset().groups(groups.cursor)
    assert [row.spec.trajectory_id for row in later.trajectories] == ["a-0", "a-1", "a-2"]
    assert len(later.trainable) == 2


def test_groups_that_lack_members_come_at_the_end_if_asked_for(run: Run) -> None:
    run.commit(member("a", 0), *(member("b", sample) for sample in range(SIZE)))
    found = [(group.group_id, group.complete) for group in run.dataset().groups(complete=False)]
    assert found == [("b", True), ("a", False)]


def test_a_group_that_grew_is_given_again_whole(run: Run) -> None:
    run.commit(member("a", 0, size=2), member("a", 1, size=2))
    groups = run.dataset().groups()
    assert [len(group.trajectories) for group in groups] == [2]
    run.commit(member("a", 2, size=3))
    assert [len(group.trajectories) for group in run.dataset().groups(groups.cursor)] == [3]


@pytest.mark.parametrize("seed", SEEDS)
def test_readers_that_come_and_go_see_each_row_and_each_group_once(
    tmp_path: Path, seed: int
) -> None:
    """A history by seed: commits, rows taken back, finishes; two readers that are ended at any
    moment and go on from their cursors."""
    rng, run = random.Random(seed), Run(tmp_path)
    waiting = [member(f"g{number}", sample) for number in range(6) for sample in range(SIZE)]
    rng.shuffle(waiting)
    standing: dict[str, Trajectory] = {}
    rows_seen: list[str] = []
    groups_seen: list[str] = []
    rows_at = groups_at = None
    while waiting or rng.random() < 0.8:
        happens = rng.choice(["commit", "commit", "commit", "take back", "read", "group", "finish"])
        if happens == "commit" and waiting:
            batch = [waiting.pop() for _ in range(min(len(waiting), rng.randint(1, 4)))]
            run.commit(*batch)
            standing |= {row.spec.trajectory_id: row for row in batch}
        elif happens == "take back" and rng.random() < 0.3:
            unseen = [
                name
                for name, row in standing.items()
                if name not in rows_seen and row.spec.group_id not in groups_seen
            ]
            taken = rng.sample(unseen, min(len(unseen), 2))
            run.log.retract(taken)
            waiting += [standing.pop(name) for name in taken]
        elif happens == "read":
            tail = run.dataset().tail(rows_at)
            for row, _ in zip(tail, range(rng.randint(1, 6)), strict=False):
                rows_seen.append(row.spec.trajectory_id)
                rows_at = tail.cursor
        elif happens == "group":
            groups = run.dataset().groups(groups_at)
            for group, _ in zip(groups, range(rng.randint(1, 3)), strict=False):
                groups_seen.append(group.group_id)
                groups_at = groups.cursor
        elif happens == "finish":
            run.log.finish({})
            if rng.random() < 0.6:
                run.compact(rng.choice([1 << 14, 1 << 26]))
    rows_seen += names(run.dataset().tail(rows_at))
    groups_seen += [group.group_id for group in run.dataset().groups(groups_at)]
    assert sorted(rows_seen) == sorted(standing)
    assert sorted(groups_seen) == [f"g{number}" for number in range(6)]
    assert all(group.complete for group in run.dataset().groups())
