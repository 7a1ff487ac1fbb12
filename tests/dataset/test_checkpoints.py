"""Checkpoints: what one says is what the entries say, and a bad one is never believed."""

import hashlib
import json
import threading
from collections.abc import Callable

import pytest

from rollout.dataset.checkpoint import FOLDER, KEPT, checkpoint_path, newest, save
from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.dataset.state import RunState
from rollout.dataset.store import LocalStore
from rollout.errors import StoreError
from rollout.types import Outcome
from tests.dataset.examples import a_row, an_attempt, ids_of, put_rows
from tests.dataset.folded import folded


@pytest.fixture
def log(local_store: LocalStore) -> CommitLog:
    """A run with a bit of everything in it."""
    log = CommitLog(local_store, "first")
    log.announce()
    log.plan({"default": {"digest": "a" * 64}}, {"task": "b" * 64}, 4)
    refused = a_row("c", reward=None, outcome=Outcome.SANDBOX_LOST)
    log.commit([put_rows(local_store, a_row("a"), a_row("b", reward=0.5), refused)], {})
    log.commit([], {"d": [an_attempt(outcome=Outcome.SANDBOX_LOST)]})
    log.commit([put_rows(local_store, a_row("e"), number=1)], {})
    log.retract(["b"])
    return log


def commit(log: CommitLog, name: str) -> None:
    log.commit([put_rows(log.store, a_row(name), number=log.state.seq + 1)], {})


def test_a_checkpoint_says_what_the_entries_say(log: CommitLog) -> None:
    save(log.store, log.state)
    assert newest(log.store) == folded(log.store) == log.state
    for name in "fg":
        commit(log, name)
    assert CommitLog(log.store, "second").load() == folded(log.store)
    assert ids_of(RolloutDataset(log.store).scan()) == ["e", "a", "c", "f", "g"]


def test_entries_before_a_checkpoint_are_not_read(log: CommitLog) -> None:
    """They stay, for whoever knows no checkpoints; that they could go shows they are not read."""
    save(log.store, log.state)
    for seq in range(1, log.state.seq):
        log.store.delete(f"_log/{seq:020d}.json")
    assert CommitLog(log.store, "second").load() == log.state
    with pytest.raises(StoreError, match="has no _log/"):
        RolloutDataset(log.store).snapshot(log.state.seq - 1)


def test_a_checkpoint_stands_outside_of_the_log_and_is_no_part(log: CommitLog) -> None:
    save(log.store, log.state)
    assert len(log.store.list("_log/")) == log.state.seq
    log.finish({})
    assert log.store.list(FOLDER) == [checkpoint_path(log.state.seq - 1)]


def test_a_snapshot_before_the_checkpoint_is_of_its_own_time(log: CommitLog) -> None:
    save(log.store, log.state)
    commit(log, "f")
    dataset = RolloutDataset(log.store)
    assert dataset.snapshot(3).finished_ids() == {"a", "b", "c"}
    assert dataset.snapshot(6).finished_ids() == {"a", "c", "e"}


def test_a_new_coordinator_goes_on_from_a_checkpoint(log: CommitLog) -> None:
    save(log.store, log.state)
    second = CommitLog(log.store, "second")
    assert second.announce() == 2
    again = put_rows(log.store, a_row("a"), a_row("b"), epoch=2)
    (reply,) = second.commit([again], {})
    assert reply.duplicates == ("a",)
    assert set(second.state.attempts) == set("abcde")


def test_they_are_written_every_so_often_and_the_last_two_are_kept(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.dataset.log.EVERY_ROWS", 2)
    log = CommitLog(local_store, "first")
    log.announce()
    for name in "abcdefg":
        commit(log, name)
        log.settle()
    assert local_store.list(FOLDER) == [checkpoint_path(5), checkpoint_path(7)]
    assert len(local_store.list(FOLDER)) == KEPT


def test_a_small_run_has_none(log: CommitLog) -> None:
    log.finish({})
    assert log.store.list(FOLDER) == []


def test_a_store_that_refuses_checkpoints_loses_no_commit(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.dataset.log.EVERY_ROWS", 1)
    log = CommitLog(local_store, "first")
    log.announce()
    (local_store.root / "_checkpoints").write_text("in the way")
    commit(log, "a")
    log.settle()
    assert set(log.state.accepted) == {"a"}


def test_commits_do_not_wait_for_a_checkpoint_and_it_is_of_its_own_moment(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.dataset.log.EVERY_ROWS", 1)
    go_on = threading.Event()
    written = []

    def slow(store: LocalStore, state: RunState) -> None:
        assert go_on.wait(30)
        written.append(set(state.accepted))
        save(store, state)

    monkeypatch.setattr("rollout.dataset.log.save", slow)
    log = CommitLog(local_store, "first")
    log.announce()
    for name in "abc":
        commit(log, name)
    assert set(log.state.accepted) == set("abc")
    go_on.set()
    log.settle()
    assert written == [{"a"}], "the next one is due when this is written"
    commit(log, "d")
    log.close()
    assert written[1:] == [set("abcd")]


def test_who_opens_a_run_to_read_it_makes_no_ids(log: CommitLog) -> None:
    save(log.store, log.state)
    dataset = open_dataset(log.store.uri)
    held = (dataset.state.accepted, dataset.state.part_ids)
    assert not any("known" in vars(each) for each in held)
    assert len(dataset.state.accepted) == len(log.state.accepted) > 0
    assert not any("known" in vars(each) for each in held), "their number needs none of them"
    assert dict(dataset.state.accepted) == dict(log.state.accepted)
    assert dict(dataset.state.part_ids) == dict(log.state.part_ids)
    assert dataset.snapshot().state == log.state


# ---------------------------------------------------------------- never believed


def with_head(**changes: object) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        head, _, body = data.partition(b"\n")
        return json.dumps({**json.loads(head), **changes}).encode() + b"\n" + body

    return spoil


def with_body(spoil: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changed, and with a digest that fits."""

    def spoiled(data: bytes) -> bytes:
        body = spoil(data.partition(b"\n")[2])
        return with_head(sha256=hashlib.sha256(body).hexdigest())(
            data.partition(b"\n")[0] + b"\n" + body
        )

    return spoiled


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "torn": lambda data: data[:-100],
    "torn in its head": lambda data: data[:20],
    "a flipped bit": lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:],
    "another version": with_head(version=2),
    "another number": with_head(seq=3),
    "after another entry": with_head(entry="0" * 64),
    "a number that is none": with_head(seq="7"),
    "a head that is a list": lambda data: b"[]\n" + data,
    "no Arrow": with_body(lambda body: b"something else"),
    "Arrow that ends early": with_body(lambda body: body[:-300]),
    "a row too few": with_body(lambda body: body.replace(b'"accepted": 3', b'"accepted": 2')),
    "an unknown outcome": with_body(lambda body: body.replace(b'["ok"', b'["ko"')),
    "a state of other fields": with_body(lambda body: body.replace(b'"finals"', b'"finale"')),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_bad_checkpoint_is_passed_over(log: CommitLog, how: str) -> None:
    save(log.store, log.state)
    path = checkpoint_path(log.state.seq)
    good = log.store.get(path)
    log.store.delete(path)
    bad = SPOILED[how](good)
    assert bad != good
    log.store.put_if_absent(path, bad)
    assert newest(log.store) is None
    assert CommitLog(log.store, "second").load() == log.state


def test_the_one_before_a_bad_one_is_as_good(log: CommitLog) -> None:
    save(log.store, log.state)
    commit(log, "f")
    log.store.put_if_absent(checkpoint_path(log.state.seq), b"torn")
    found = newest(log.store)
    assert found is not None
    assert found.seq == log.state.seq - 1
    assert CommitLog(log.store, "second").load() == log.state


def test_one_that_is_ahead_of_the_log_is_passed_over(log: CommitLog) -> None:
    commit(log, "f")
    save(log.store, log.state)
    log.store.delete(f"_log/{log.state.seq:020d}.json")
    assert CommitLog(log.store, "second").load().seq == log.state.seq - 1
