"""The log: who may write, what is accepted, what a lost reply or a dead process changes."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset
from rollout.dataset.state import RunState
from rollout.dataset.store import LocalStore, Store
from rollout.errors import Fenced, StoreError
from rollout.types import Outcome
from tests.dataset.examples import a_row, an_attempt, ids_of, put_rows


def opened(store: Store, owner: str = "coordinator") -> CommitLog:
    log = CommitLog(store, owner)
    log.announce()
    return log


def replayed(store: Store) -> RunState:
    return CommitLog(store, "reader").load()


def test_load_of_nothing_writes_nothing(store: Store) -> None:
    state = CommitLog(store, "reader").load()
    assert (state.seq, state.epoch, state.accepted) == (0, 0, {})
    assert store.list("") == []


def test_a_commit_makes_rows_visible_after_a_reload(store: Store) -> None:
    log = opened(store)
    request = put_rows(store, a_row("a"), a_row("b", reward=None, outcome=Outcome.SANDBOX_LOST))
    assert replayed(store).accepted == {}
    (reply,) = log.commit([request], {})
    assert reply.accepted
    state = replayed(store)
    assert state == log.state
    assert state.accepted == {"a": (Outcome.OK, 1.0), "b": (Outcome.SANDBOX_LOST, None)}
    assert state.attempts["b"] == (an_attempt(outcome=Outcome.SANDBOX_LOST),)
    assert list(state.parts.values()) == list(request.parts)


def test_several_requests_are_one_entry(local_store: LocalStore) -> None:
    log = opened(local_store)
    requests = [put_rows(local_store, a_row(name), worker=f"w{name}") for name in "abc"]
    assert all(reply.accepted for reply in log.commit(requests, {}))
    assert log.state.seq == 2
    assert log.commit([], {}) == []
    assert log.state.seq == 2


def test_duplicates_are_named_and_nothing_of_the_part_is_accepted(local_store: LocalStore) -> None:
    log = opened(local_store)
    log.commit([put_rows(local_store, a_row("a"), a_row("b"))], {})
    second = put_rows(local_store, a_row("b"), a_row("c"), number=1)
    (reply,) = log.commit([second], {})
    assert (reply.accepted, reply.duplicates) == (False, ("b",))
    assert set(log.state.accepted) == {"a", "b"}
    (reply,) = log.commit([put_rows(local_store, a_row("c"), number=2)], {})
    assert reply.accepted


def test_duplicates_within_one_group_commit(local_store: LocalStore) -> None:
    log = opened(local_store)
    first = put_rows(local_store, a_row("a"), worker="w1")
    second = put_rows(local_store, a_row("a"), a_row("b"), worker="w2")
    replies = log.commit([first, second], {})
    assert [(r.accepted, r.duplicates) for r in replies] == [(True, ()), (False, ("a",))]


def test_the_same_request_again_is_accepted_without_an_entry(local_store: LocalStore) -> None:
    log = opened(local_store)
    request = put_rows(local_store, a_row("a"))
    assert all(reply.accepted for reply in log.commit([request, request], {}))
    assert log.commit([request], {})[0].accepted
    assert log.state.seq == 2
    assert opened(local_store).commit([request], {})[0].accepted


def test_attempts_are_on_record_before_their_rollout_is_done(local_store: LocalStore) -> None:
    log = opened(local_store)
    first = an_attempt(1, outcome=Outcome.SANDBOX_LOST)
    log.commit([], {"a": [first]})
    log.commit([], {"a": [first]})
    assert log.state.seq == 2
    log.commit([], {"a": [first, an_attempt(2)]})
    assert replayed(local_store).attempts == {"a": (first, an_attempt(2))}


def test_the_plan_is_logged_when_something_is_new(local_store: LocalStore) -> None:
    log = opened(local_store)
    log.plan({"x": {"digest": "1", "agent": "nop"}}, {"t1": "d1"}, 4)
    log.plan({"x": {"digest": "1", "agent": "nop"}}, {"t1": "d1"}, 4)
    assert log.state.seq == 2
    log.plan({"y": {"digest": "2"}}, {"t2": "d2"}, 8)
    state = replayed(local_store)
    assert (set(state.arms), state.tasks, state.samples) == (
        {"x", "y"},
        {"t1": "d1", "t2": "d2"},
        8,
    )
    with pytest.raises(StoreError, match="x with another digest"):
        log.plan({"x": {"digest": "3"}}, {}, 8)
    with pytest.raises(StoreError, match="t1 with another digest"):
        log.plan({}, {"t1": "d3"}, 8)


def test_a_malformed_request_is_refused(local_store: LocalStore) -> None:
    log = opened(local_store)
    with pytest.raises(StoreError, match="malformed"):
        log.commit([put_rows(local_store, a_row("a"), a_row("a"))], {})


# ---------------------------------------------------------------- the fence


def test_a_zombie_is_fenced_and_stays_so(store: Store) -> None:
    zombie = opened(store, "zombie")
    owner = opened(store, "owner")
    with pytest.raises(Fenced, match="owner took the run"):
        zombie.commit([put_rows(store, a_row("a"))], {})
    for use in (
        lambda: zombie.commit([], {}),
        lambda: zombie.retract(["a"]),
        lambda: zombie.finish({}),
        lambda: zombie.plan({}, {}, 1),
    ):
        with pytest.raises(Fenced):
            use()
    assert owner.commit([put_rows(store, a_row("a"), epoch=2)], {})[0].accepted
    assert replayed(store).epoch == 2


def test_nothing_is_written_before_an_epoch_is_announced(local_store: LocalStore) -> None:
    log = CommitLog(local_store, "eager")
    with pytest.raises(StoreError, match="has not announced"):
        log.commit([put_rows(local_store, a_row("a"))], {})


def test_parts_of_a_fenced_epoch_are_refused(local_store: LocalStore) -> None:
    opened(local_store)
    log = opened(local_store)
    (reply,) = log.commit([put_rows(local_store, a_row("a"), epoch=1)], {})
    assert (reply.accepted, reply.duplicates) == (False, ())
    assert "a" not in log.state.accepted


def test_a_part_of_a_newer_epoch_fences_the_coordinator_that_sees_it(
    local_store: LocalStore,
) -> None:
    log = opened(local_store)
    with pytest.raises(Fenced):
        log.commit([put_rows(local_store, a_row("a"), epoch=2)], {})


def test_one_of_two_announcing_at_once_wins(store: Store) -> None:
    barrier = threading.Barrier(4)

    def announce(number: int) -> int:
        log = CommitLog(store, f"c{number}")
        log.load()
        barrier.wait()
        try:
            return log.announce()
        except Fenced:
            return 0

    with ThreadPoolExecutor(4) as pool:
        epochs = [epoch for epoch in pool.map(announce, range(4)) if epoch]
    assert epochs
    assert len(set(epochs)) == len(epochs)
    assert replayed(store).epoch == max(epochs)


def test_two_coordinators_never_accept_one_trajectory_twice(store: Store) -> None:
    """Both take the run over again and again and commit rows of the same few rollouts."""
    barrier = threading.Barrier(2)
    accepted: list[str] = []

    def coordinate(owner: str) -> None:
        barrier.wait()
        for turn in range(6):
            log = CommitLog(store, owner)
            try:
                epoch = log.announce()
                for number in range(3):
                    row = a_row(f"id{turn % 3}-{number}", text=owner)
                    request = put_rows(store, row, epoch=epoch, worker=owner, number=number)
                    if log.commit([request], {})[0].accepted:
                        accepted.extend(request.trajectory_ids)
            except Fenced:
                continue

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(coordinate, ["one", "two"]))
    state = replayed(store)
    assert sorted(accepted) == sorted(state.accepted)
    assert sorted(ids_of(RolloutDataset(store).scan())) == sorted(state.accepted)


class Unreliable:
    """A real store whose next put lands, but whose reply is lost or wrong."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.uri = inner.uri
        self.spoil: Callable[[bool], bool] | None = None

    def put_if_absent(self, path: str, data: bytes) -> bool:
        spoil, self.spoil = self.spoil, None
        done = self.inner.put_if_absent(path, data)
        return spoil(done) if spoil else done

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


def lost(_: bool) -> bool:
    raise StoreError("timed out")


def test_an_own_entry_after_a_retry_that_landed_twice_is_success(local_store: LocalStore) -> None:
    store = Unreliable(local_store)
    log = CommitLog(store, "c")
    store.spoil = lambda _: False
    assert log.announce() == 1
    request = put_rows(local_store, a_row("a"))
    store.spoil = lambda _: False
    assert log.commit([request], {})[0].accepted
    assert replayed(local_store).seq == 2
    store.spoil = lambda _: False
    log.finish({})
    assert local_store.list("_final/") == ["_final/1.json"]


def test_an_own_entry_whose_reply_was_lost_is_found_by_the_next_try(
    local_store: LocalStore,
) -> None:
    store = Unreliable(local_store)
    log = opened(store)
    requests = [put_rows(local_store, a_row("a"))]
    store.spoil = lost
    with pytest.raises(StoreError, match="timed out"):
        log.commit(requests, {})
    assert "a" not in log.state.accepted
    requests.append(put_rows(local_store, a_row("b"), number=1))
    assert [reply.accepted for reply in log.commit(requests, {})] == [True, True]
    assert replayed(local_store) == log.state
    assert set(log.state.accepted) == {"a", "b"}


def test_an_announcement_whose_reply_was_lost(local_store: LocalStore) -> None:
    store = Unreliable(local_store)
    log = CommitLog(store, "c")
    store.spoil = lost
    with pytest.raises(StoreError, match="timed out"):
        log.announce()
    with pytest.raises(StoreError, match="has not announced"):
        log.commit([], {"a": [an_attempt()]})
    assert log.announce() == 2


# ---------------------------------------------------------------- retract, finish


def test_retracted_rows_can_be_done_again(store: Store) -> None:
    log = opened(store)
    names = ["a", "b", "c", "d"]
    log.commit([put_rows(store, *map(a_row, names))], {})
    log.commit([put_rows(store, a_row("e"), number=1)], {})
    log.retract(["b", "e", "unknown"])
    state = replayed(store)
    assert state == log.state
    assert set(state.accepted) == {"a", "c", "d"}
    assert set(state.attempts) == {*names, "e"}
    assert ids_of(RolloutDataset(store).scan()) == ["a", "c", "d"]
    seq = state.seq
    log.retract(["b"])
    assert log.state.seq == seq
    assert log.commit([put_rows(store, a_row("b"), number=2)], {})[0].accepted
    assert ids_of(RolloutDataset(store).scan()) == ["a", "c", "d", "b"]


def test_finish_removes_only_parts_that_no_commit_names(store: Store) -> None:
    log = opened(store)
    log.commit([put_rows(store, a_row("a"), a_row("b"))], {})
    orphan = put_rows(store, a_row("c"), number=1).parts[0].path
    log.retract(["a"])
    others = ["artifacts/c/1-1/notes.txt", "trajectories/keep.txt", "starts/1.json"]
    for path in others:
        store.put_if_absent(path, b"x")
    assert not replayed(store).finished
    log.finish({"rows": 1})
    left = store.list("")
    assert orphan not in left
    assert set(others) < set(left)
    assert [p for p in left if p.endswith(".parquet")] == list(log.state.parts)
    marker = json.loads(store.get("_final/1.json"))
    assert (marker["summary"], marker["rows"], marker["seq"]) == ({"rows": 1}, 1, log.state.seq)
    assert log.state.finished
    assert replayed(store).finished


def test_a_finished_run_that_goes_on_is_not_finished(local_store: LocalStore) -> None:
    opened(local_store).finish({})
    log = opened(local_store)
    assert not replayed(local_store).finished
    log.finish({"second": True})
    assert replayed(local_store).finished
    assert local_store.list("_final/") == ["_final/1.json", "_final/2.json"]


def test_a_finish_that_was_cut_off_before_its_marker_does_not_count(
    local_store: LocalStore,
) -> None:
    log = opened(local_store)
    log.finish({})
    local_store.delete("_final/1.json")
    assert not replayed(local_store).finished
    opened(local_store).finish({})
    assert replayed(local_store).finished


# ---------------------------------------------------------------- damage


@pytest.fixture
def written(local_store: LocalStore) -> LocalStore:
    log = opened(local_store)
    log.commit([put_rows(local_store, a_row("a"))], {})
    log.commit([put_rows(local_store, a_row("b"), number=1)], {})
    return local_store


def rewrite(store: LocalStore, seq: int, change: Callable[[bytes], bytes]) -> None:
    path = f"_log/{seq:020d}.json"
    data = store.get(path)
    store.delete(path)
    store.put_if_absent(path, change(data))


def test_a_gap(written: LocalStore) -> None:
    written.delete(f"_log/{2:020d}.json")
    with pytest.raises(StoreError, match=r"has no _log/0+2\.json, though later entries exist"):
        replayed(written)


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_a_torn_entry(written: LocalStore, kept: int) -> None:
    rewrite(written, 3, lambda data: data[:kept])
    with pytest.raises(StoreError, match=r"_log/0+3\.json is damaged"):
        replayed(written)


def changed(**fields: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | fields).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(version=99), r"version 99, this program knows 1: a newer rollout wrote it"),
        (changed(kind="vacuum"), "kind 'vacuum', which this version lacks"),
        (changed(seq=7), "says it is entry 7"),
        (changed(epoch=0), r"cannot follow entry 2 of epoch 1: the log is damaged"),
        (changed(body={}), "is damaged: KeyError: 'commits'"),
        (changed(surprise=1), "is damaged"),
        (lambda _: b"[]", "is damaged"),
        (lambda _: b"\xff\xfe", "is damaged"),
    ],
)
def test_an_entry_that_cannot_be_understood(
    written: LocalStore, change: Callable[[bytes], bytes], said: str
) -> None:
    rewrite(written, 3, change)
    with pytest.raises(StoreError, match=said):
        replayed(written)


def test_an_entry_that_accepts_a_trajectory_again(written: LocalStore) -> None:
    first = json.loads(written.get(f"_log/{2:020d}.json"))["body"]
    rewrite(written, 3, changed(body=first))
    with pytest.raises(StoreError, match="a is accepted a second time"):
        replayed(written)
