"""What is new in a request to the log. Pure: state and requests in, decisions out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rollout.dataset.attempts import dump_attempt, merge
from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.parts import is_part
from rollout.dataset.state import RunState
from rollout.errors import StoreError
from rollout.types import Attempt


def judge(
    state: RunState, epoch: int, requests: Sequence[CommitRequest]
) -> tuple[list[CommitReply], list[CommitRequest]]:
    """A reply to each request, in order, and those that the next entry is to name.

    Earlier requests of the same call count as accepted for later ones.
    """
    replies: list[CommitReply] = []
    fresh: dict[tuple[Part, ...], CommitRequest] = {}
    taken: set[str] = set()
    for request in requests:
        _check(request)
        if _known(state, request) or request.parts in fresh:
            replies.append(CommitReply(accepted=True))
            continue
        if request.epoch < epoch:
            replies.append(CommitReply(accepted=False))
            continue
        duplicates = _already(request, state.accepted, taken)
        replies.append(CommitReply(accepted=not duplicates, duplicates=duplicates))
        if not duplicates:
            fresh[request.parts] = request
            taken.update(request.trajectory_ids)
    return replies, list(fresh.values())


def new_attempts(
    state: RunState,
    requests: Sequence[CommitRequest],
    attempts: Mapping[str, Sequence[Attempt]],
) -> dict[str, list[dict[str, Any]]]:
    """Ended attempts that are not on record yet, as JSON; those of refused requests included."""
    told: dict[str, tuple[Attempt, ...]] = {}
    for trajectory_id, ended in (*attempts.items(), *_attempts_of(requests)):
        told[trajectory_id] = merge(told.get(trajectory_id, ()), ended)
    new: dict[str, list[dict[str, Any]]] = {}
    for trajectory_id, ended in told.items():
        known = {(a.epoch, a.n) for a in state.attempts.get(trajectory_id, ())}
        if fresh := [dump_attempt(a) for a in ended if (a.epoch, a.n) not in known]:
            new[trajectory_id] = fresh
    return new


def new_in_plan(
    state: RunState, arms: Mapping[str, dict[str, Any]], tasks: Mapping[str, str], samples: int
) -> dict[str, Any]:
    """The next plan entry's body, empty when nothing is new; StoreError on a changed digest."""
    changed = [name for name, arm in arms.items() if _changed(state.arms.get(name), arm)]
    changed += [name for name, digest in tasks.items() if state.tasks.get(name, digest) != digest]
    if changed:
        raise StoreError(
            f"the run already holds {', '.join(changed[:5])} with another digest: what changes a "
            "result needs another run name, or another name for the arm or task"
        )
    new_arms = {name: arm for name, arm in arms.items() if state.arms.get(name) != arm}
    new_tasks = {name: digest for name, digest in tasks.items() if name not in state.tasks}
    if not new_arms and not new_tasks and samples == state.samples:
        return {}
    return {"arms": new_arms, "tasks": new_tasks, "samples": samples, "group_size": samples}


def _known(state: RunState, request: CommitRequest) -> bool:
    return all(state.parts.get(part.path) == part for part in request.parts)


def _already(request: CommitRequest, *taken: Collection[str]) -> tuple[str, ...]:
    return tuple(i for i in request.trajectory_ids if any(i in ids for ids in taken))


def _changed(known: Mapping[str, Any] | None, arm: Mapping[str, Any]) -> bool:
    return known is not None and known.get("digest") != arm.get("digest")


def _attempts_of(
    requests: Sequence[CommitRequest],
) -> Iterator[tuple[str, Sequence[Attempt]]]:
    for request in requests:
        yield from zip(request.trajectory_ids, request.attempts, strict=True)


def _check(request: CommitRequest) -> None:
    ids = request.trajectory_ids
    rows = sum(part.rows for part in request.parts if part.table == "trajectories")
    lengths = {len(ids), len(request.outcomes), len(request.rewards), len(request.attempts), rows}
    if lengths != {len(set(ids))} or not ids or not all(is_part(p.path) for p in request.parts):
        raise StoreError(
            f"the commit of {request.worker} is malformed: {len(ids)} ids ({len(set(ids))} "
            f"distinct) for {rows} rows in {[part.path for part in request.parts]}"
        )
