"""The writer: when parts go out, and what a slow, failing or taken-over store does to it."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rollout.dataset.base import CommitReply, CommitRequest
from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset
from rollout.dataset.store import LocalStore, Store
from rollout.dataset.writer import DatasetWriter, row_bytes
from rollout.errors import Fenced, StoreError
from tests.dataset.examples import a_row, ids_of, put_rows

NEVER_S = 3600.0


class Commits:
    """A coordinator's commit over a real log, which remembers what it was asked."""

    def __init__(self, store: Store) -> None:
        self.log = CommitLog(store, "coordinator")
        self.log.announce()
        self.requests: list[CommitRequest] = []
        self.came = asyncio.Event()

    async def __call__(self, request: CommitRequest) -> CommitReply:
        (reply,) = await asyncio.to_thread(self.log.commit, [request], {})
        self.requests.append(request)
        self.came.set()
        return reply


class Spoiled:
    """A real store with something done before each put."""

    def __init__(self, inner: Store, before_put: Callable[[], object]) -> None:
        self.inner = inner
        self.uri = inner.uri
        self.before_put = before_put

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.before_put()
        return self.inner.put_if_absent(path, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def away() -> None:
    raise StoreError("the store is away")


def writing(
    store: Store,
    commit: Callable[[CommitRequest], Awaitable[CommitReply]],
    *,
    epoch: int = 1,
    flush_bytes: int = 1_000_000,
    flush_s: float = NEVER_S,
    format: str = "parquet",
    retry_s: float = 20.0,
) -> DatasetWriter:
    return DatasetWriter(
        store,
        worker="w0001",
        epoch=epoch,
        format=format,
        flush_bytes=flush_bytes,
        flush_s=flush_s,
        commit=commit,
        retry_s=retry_s,
    )


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_close_commits_what_was_added(store: Store, format: str) -> None:
    commits = Commits(store)
    writer = writing(store, commits, format=format)
    for name in "abc":
        await writer.add(a_row(name))
    assert writer.buffered_rows == 3
    await writer.close()
    await writer.close()
    assert writer.buffered_rows == 0
    assert ids_of(RolloutDataset(store).scan()) == ["a", "b", "c"]
    assert len(commits.requests) == 1
    assert commits.requests[0].parts[0].path.startswith("trajectories/writer=w0001/e0001-000000-")


async def test_a_part_goes_out_when_it_is_large(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits, flush_bytes=3 * row_bytes(a_row("a")))
    for name in "abc":
        await writer.add(a_row(name))
    await commits.came.wait()
    assert commits.requests[0].trajectory_ids == ("a", "b", "c")
    await writer.close()


async def test_rows_that_come_all_at_once_go_out_in_parts_of_the_right_size(
    local_store: LocalStore,
) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits, flush_bytes=3 * row_bytes(a_row("a")))
    for name in "abcdefgh":
        await writer.add(a_row(name))
    await writer.flush()
    asked = ["".join(request.trajectory_ids) for request in commits.requests]
    assert asked == ["abc", "def", "gh"]
    await writer.close()


async def test_rows_that_do_not_fill_a_part_exactly_are_encoded_ahead(
    local_store: LocalStore,
) -> None:
    """Parts a bit short of their size, of which two fit into the room there is."""
    gate, commits = threading.Event(), Commits(local_store)
    slow = Spoiled(local_store, lambda: gate.wait(60))
    writer = writing(slow, commits, flush_bytes=13 * row_bytes(a_row("a")) // 5)
    for name in "abcde":
        await writer.add(a_row(name))
    waiting = asyncio.create_task(writer.add(a_row("f")))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    gate.set()
    await waiting
    await writer.close()
    asked = ["".join(request.trajectory_ids) for request in commits.requests]
    assert asked == ["abc", "de", "f"]


async def test_a_part_goes_out_when_its_oldest_row_is_old(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits, flush_s=0.05)
    await writer.add(a_row("a"))
    await commits.came.wait()
    await writer.add(a_row("b"))
    await writer.flush()
    assert [request.trajectory_ids for request in commits.requests] == [("a",), ("b",)]
    await writer.close()


async def test_flush_waits_for_what_was_added_before_it(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits)
    await writer.flush()
    await writer.add(a_row("a"))
    await writer.flush()
    assert set(commits.log.state.accepted) == {"a"}
    assert writer.buffered_rows == 0
    await writer.close()


async def test_a_slow_store_holds_the_adders_back(local_store: LocalStore) -> None:
    gate, commits = threading.Event(), Commits(local_store)
    slow = Spoiled(local_store, lambda: gate.wait(60))
    writer = writing(slow, commits, flush_bytes=5 * row_bytes(a_row("row00")))

    async def add_all() -> None:
        for number in range(50):
            await writer.add(a_row(f"row{number:02}"))

    adding = asyncio.create_task(add_all())
    while writer.buffered_rows < 10:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert writer.buffered_rows == 10, "twice flush_bytes, and not a row more"
    gate.set()
    await adding
    await writer.close()
    assert len(commits.log.state.accepted) == 50


async def test_a_row_larger_than_the_buffer_passes(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits, flush_bytes=100)
    for name in "ab":
        await writer.add(a_row(name, text="x" * 10_000))
    await writer.close()
    assert set(commits.log.state.accepted) == {"a", "b"}


async def test_rows_accepted_elsewhere_are_left_out_of_a_new_part(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    commits.log.commit([put_rows(local_store, a_row("b"), worker="w0002")], {})
    writer = writing(local_store, commits)
    for name in "abc":
        await writer.add(a_row(name))
    await writer.close()
    assert ids_of(RolloutDataset(local_store).scan()) == ["b", "a", "c"]
    asked = [request.trajectory_ids for request in commits.requests]
    assert asked == [("a", "b", "c"), ("a", "c")]


async def test_all_rows_accepted_elsewhere_is_no_error(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    commits.log.commit([put_rows(local_store, a_row("a"), worker="w0002")], {})
    writer = writing(local_store, commits)
    await writer.add(a_row("a"))
    await writer.close()
    assert writer.buffered_rows == 0


async def test_two_rows_of_one_rollout_become_one(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits)
    for text in ("first", "second"):
        await writer.add(a_row("a", text=text))
    await writer.add(a_row("b"))
    await writer.close()
    dataset = RolloutDataset(local_store)
    assert ids_of(dataset.scan()) == ["a", "b"]
    assert dataset.trajectory("a").messages[0].content == "first"


async def test_a_store_that_comes_back_loses_nothing(local_store: LocalStore) -> None:
    commits, failures = Commits(local_store), [1, 2, 3]

    def away_at_first() -> None:
        if failures:
            failures.pop()
            away()

    writer = writing(Spoiled(local_store, away_at_first), commits)
    await writer.add(a_row("a"))
    await writer.close()
    assert not failures
    assert set(commits.log.state.accepted) == {"a"}


async def test_a_store_that_stays_away_comes_out_everywhere(local_store: LocalStore) -> None:
    writer = writing(Spoiled(local_store, away), Commits(local_store), retry_s=0.3)
    await writer.add(a_row("a"))
    for use in (writer.flush, lambda: writer.add(a_row("b")), writer.close):
        with pytest.raises(StoreError, match=r"gave up after \d tries: the store is away"):
            await use()
    assert writer.buffered_rows == 1


async def test_an_adder_that_waits_hears_of_the_failure(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    writer = writing(Spoiled(local_store, away), commits, retry_s=0.3, flush_bytes=1)
    await writer.add(a_row("a"))
    with pytest.raises(StoreError, match="the store is away"):
        await writer.add(a_row("b"))


async def test_a_commit_whose_reply_was_lost_is_asked_again(local_store: LocalStore) -> None:
    commits, lost = Commits(local_store), ["once"]

    async def unreliable(request: CommitRequest) -> CommitReply:
        reply = await commits(request)
        if lost:
            lost.pop()
            raise ConnectionError("gone")
        return reply

    writer = writing(local_store, unreliable)
    await writer.add(a_row("a"))
    await writer.close()
    assert set(commits.log.state.accepted) == {"a"}
    assert commits.log.state.seq == 2


async def test_a_part_that_landed_before_its_reply_was_lost(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    put_rows(local_store, a_row("a"))
    writer = writing(local_store, commits)
    await writer.add(a_row("a"))
    await writer.close()
    assert set(commits.log.state.accepted) == {"a"}
    assert len(local_store.list("trajectories/")) == 1


async def test_a_writer_of_a_fenced_epoch_stops(local_store: LocalStore) -> None:
    commits = Commits(local_store)
    commits.log.announce()
    writer = writing(local_store, commits, epoch=1)
    await writer.add(a_row("a"))
    with pytest.raises(Fenced, match="refuses parts of epoch 1 from w0001"):
        await writer.close()
    assert len(commits.requests) == 1
    assert commits.log.state.accepted == {}


async def test_a_fenced_coordinator_is_not_asked_again(local_store: LocalStore) -> None:
    asked: list[CommitRequest] = []

    async def fenced(request: CommitRequest) -> CommitReply:
        asked.append(request)
        raise Fenced("a newer epoch owns the run")

    writer = writing(local_store, fenced)
    await writer.add(a_row("a"))
    with pytest.raises(Fenced, match="a newer epoch"):
        await writer.close()
    assert len(asked) == 1


@pytest.mark.parametrize("reward", [math.nan, math.inf])
async def test_a_reward_that_is_no_number_is_refused_alone(
    local_store: LocalStore, reward: float
) -> None:
    commits = Commits(local_store)
    writer = writing(local_store, commits)
    await writer.add(a_row("a"))
    with pytest.raises(StoreError, match="trajectory b has reward"):
        await writer.add(a_row("b", reward=reward))
    await writer.close()
    assert set(commits.log.state.accepted) == {"a"}


async def test_a_closed_writer_takes_no_rows(local_store: LocalStore) -> None:
    writer = writing(local_store, Commits(local_store))
    await writer.close()
    with pytest.raises(StoreError, match="is closed"):
        await writer.add(a_row("a"))
