"""Which groups may be on their way, and from where a trainer reads on after a crash."""

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from rollout.online.feed import Arrival, Bookmark
from rollout.online.ledger import GroupLedger, Wanted
from rollout.types import Group


def name_of(wanted: Wanted) -> str:
    return f"{wanted.task_id}/{wanted.round}"


def ledger(batch: int | None = 2, max_staleness: int = 1) -> GroupLedger:
    return GroupLedger(name_of, batch=batch, max_staleness=max_staleness)


def test_without_a_batch_all_runs_at_once() -> None:
    book = ledger(batch=None)
    for _ in range(3):
        book.submit("a", 4)
    assert [name_of(wanted) for wanted in book.release()] == ["a/0", "a/1", "a/2"]
    assert book.room is None
    assert not book.idle


def test_each_step_lets_a_batch_begin_and_what_was_dropped_makes_room() -> None:
    book = ledger(batch=2, max_staleness=1)
    for _ in range(9):
        book.submit("a", 4)
    assert len(book.release()) == 4, "(1 + 1) * 2"
    book.settle("a/0", accepted=True)
    assert book.release() == [], "it counts as taken"
    book.settle("a/1", accepted=False)
    assert [name_of(wanted) for wanted in book.release()] == ["a/4"]
    book.weights_changed()
    assert len(book.release()) == 2


def test_where_taking_is_training_a_taken_batch_lets_the_next_begin() -> None:
    book = GroupLedger(name_of, batch=2, max_staleness=1, taking_is_training=True)
    for _ in range(9):
        book.submit("a", 4)
    assert len(book.release()) == 4
    book.settle("a/0", accepted=True)
    book.weights_changed()
    assert book.release() == [], "neither half a batch nor a new version makes room"
    book.settle("a/1", accepted=True)
    assert [name_of(wanted) for wanted in book.release()] == ["a/4", "a/5"]


@given(st.integers(1, 4), st.integers(0, 3), st.lists(st.sampled_from("stda"), max_size=60))
def test_nothing_that_is_begun_can_be_too_old_when_its_turn_comes(
    batch: int, max_staleness: int, acts: str
) -> None:
    """A trainer that takes `batch` groups a step, in whatever order they come."""
    book = GroupLedger(name_of, batch=batch, max_staleness=max_staleness)
    begun: list[str] = []
    taken = 0
    for act in acts:
        if act == "s":
            book.submit("a", 2)
        elif act == "t" and begun:
            name = random.Random(len(acts)).choice(begun)
            begun.remove(name)
            book.settle(name, accepted=True)
            taken += 1
            if taken % batch == 0:
                book.weights_changed()
        elif act == "d" and begun:
            name = begun.pop(0)
            book.settle(name, accepted=False)
        begun += (released := [name_of(wanted) for wanted in book.release()])
        assert len(begun) + taken <= (max_staleness + book.step) * batch
        # Even if all that run are trained on before it: what is begun now is within the bound.
        step_of_last = (taken + len(begun) + batch - 1) // batch
        assert not released or step_of_last - book.step <= max_staleness


def test_what_ran_is_queued_again_from_a_checkpoint_under_the_same_names() -> None:
    book = ledger()
    for task in "abcdef":
        book.submit(task, 4)
    names = [name_of(wanted) for wanted in book.release()]
    book.settle(names[0], accepted=True)
    again = ledger()
    again.load_state_dict(json.loads(json.dumps(book.state_dict())))
    assert [name_of(wanted) for wanted in again.release()] == names[1:4]
    assert (again.accepted, again.queued) == (1, 2)
    assert again.submit("a", 4).round == 1


# ---------------------------------------------------------------- the bookmark


def arrival(number: int) -> Arrival:
    group = Group(group_id=f"g{number}", arm="x", task_id="t", size=1, trajectories=())
    return Arrival(group=group, before=f"1:{number}:0", after=f"1:{number + 1}:0")


@given(st.data())
def test_each_group_is_dealt_with_once_whatever_is_asked_for_when(data: st.DataObject) -> None:
    """A log of groups, read by lives that end at any moment and go on from a state of theirs."""
    total = data.draw(st.integers(1, 12))
    state = {"cursor": "1:0:0", "settled": []}
    settled: list[str] = []
    for _ in range(data.draw(st.integers(1, 4))):
        mark = Bookmark.of(json.loads(json.dumps(state)))
        done = list(settled)
        start = int(state["cursor"].split(":")[1])
        for number in range(start, data.draw(st.integers(start, total))):
            came = arrival(number)
            name = came.group.group_id
            if mark.is_settled(name):
                mark.settle(came)
                continue
            if data.draw(st.booleans()):
                mark.settle(came)
                done.append(name)
            else:
                mark.hold(came)
            if mark.early and data.draw(st.booleans()):
                asked = data.draw(st.sampled_from(sorted(mark.early)))
                done.append(mark.take_early(asked).group_id)
            if data.draw(st.booleans()):  # a checkpoint
                state, settled = mark.state_dict(), list(done)
    mark = Bookmark.of(state)
    for number in range(int(state["cursor"].split(":")[1]), total):
        came = arrival(number)
        if not mark.is_settled(came.group.group_id):
            settled.append(came.group.group_id)
        mark.settle(came)
    assert sorted(settled) == sorted(f"g{number}" for number in range(total))
