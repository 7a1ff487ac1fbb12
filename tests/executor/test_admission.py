"""A worker starts no episode that would only wait for room."""

from rollout.capacity import Capacity
from rollout.executor.admission import Admission, demand_of
from rollout.types import Blueprint, Resources, Task, Verifier


def test_what_does_not_fit_is_refused_and_room_comes_back() -> None:
    admission = Admission(Capacity(cpu=4, memory_mb=1000), most=8)
    big = Capacity(cpu=1, memory_mb=400)
    assert admission.room == 8
    assert admission.enter("a", big)
    assert admission.enter("b", big)
    assert not admission.enter("c", big)
    assert admission.room == 0
    admission.leave("a")
    assert admission.room == 2
    assert admission.enter("c", big)
    assert not admission.enter("d", big)


def test_most_holds_whatever_fits() -> None:
    admission = Admission(Capacity(cpu=4), most=2)
    for name in "ab":
        assert admission.enter(name, Capacity())
    assert admission.room == 0
    admission.leave("nobody")
    assert admission.room == 0


def test_what_never_fits_goes_alone_to_fail_with_a_reason() -> None:
    admission = Admission(Capacity(memory_mb=100), most=8)
    assert admission.enter("huge", Capacity(memory_mb=5000))
    assert not admission.enter("small", Capacity(memory_mb=10))


def test_an_episode_counts_for_the_larger_of_its_sandboxes() -> None:
    task = Task(
        id="t",
        instruction="",
        blueprint=Blueprint(resources=Resources(cpu=2, memory_mb=100)),
        verifier=Verifier(blueprint=Blueprint(resources=Resources(memory_mb=300))),
    )
    assert demand_of(task) == Capacity(cpu=2, memory_mb=300)
