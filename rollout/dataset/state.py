"""What the log says: entries as JSON, and the state that folding them in order gives.

An entry is one object `_log/<20 digits>.json`, numbered from 1 without gaps:

    {version, seq, epoch, nonce, owner, at, kind, body}

    epoch     {}                                  a coordinator announces itself; fences older ones
    plan      {arms, tasks, samples, group_size}  what the run is to do from here on
    commit    {commits: [{worker, epoch, parts, ids, outcomes, rewards}], attempts}
    attempts  {attempts: {id: [...]}}             ended attempts whose rollouts are not done yet
    retract   {ids, removes: [path], adds: [{part, ids}]}
    compact   {removes: [path], adds: [{part, of: [path]}]}     the same rows in fewer parts
    finish    {n}                                 all is committed; `_final/<n>.json` follows

Whoever reads refuses what it does not know: a newer version, another kind, a gap, a torn entry.
"""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from rollout.dataset.attempts import AttemptBook
from rollout.dataset.base import CommitRequest, Part
from rollout.dataset.lazily import Lazily
from rollout.errors import StoreError
from rollout.types import Outcome

LOG_VERSION = 1

_ENTRY_PATH = re.compile(r"_log/(\d{20})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One log entry."""

    seq: int
    epoch: int
    nonce: str
    """Unique; tells a writer whether the entry it finds is its own."""
    owner: str
    at: str
    kind: str
    body: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class RunState:
    """A run as of log entry `seq`. Only `apply` and `become` change it."""

    seq: int = 0
    epoch: int = 0
    accepted: Lazily[str, tuple[Outcome, float | None]] = field(default_factory=Lazily)
    """Trajectory id to outcome and reward; each id is in exactly one named part."""
    attempts: AttemptBook = field(default_factory=AttemptBook)
    """Every ended attempt on record, those of rollouts not accepted yet included."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    """Task id to digest."""
    samples: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    """Path to part: exactly what a reader reads, in the order it became visible."""
    part_ids: Lazily[str, tuple[str, ...]] = field(default_factory=Lazily)
    """Part's path to the trajectory ids whose rows it may hold."""
    final: int = 0
    """The last `finish` entry's number, while nothing was logged after it."""
    finals: int = 0
    """How many `finish` entries there are."""
    finished: bool = False
    """`_final/<final>.json` exists: parts that no commit names are gone."""

    def apply(self, entry: Entry) -> None:
        """Fold the next entry in; StoreError when it cannot be the next one."""
        where = entry_path(entry.seq)
        if entry.seq != self.seq + 1 or entry.epoch < self.epoch:
            raise StoreError(
                f"{where} (entry {entry.seq} of epoch {entry.epoch}) cannot follow entry "
                f"{self.seq} of epoch {self.epoch}: the log is damaged; restore the folder `_log`"
            )
        if entry.kind not in _FOLDS:
            raise StoreError(f"{where} is of kind {entry.kind!r}, which this version lacks")
        try:
            _FOLDS[entry.kind](self, entry.body)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise StoreError(f"{where} is damaged: {type(exc).__name__}: {exc}") from exc
        self.seq, self.epoch = entry.seq, entry.epoch
        self.final = self.finals if entry.kind == "finish" else 0
        self.finished = False

    def become(self, other: "RunState") -> None:
        """Be as `other` is, which is not to be used any more."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def copy(self) -> "RunState":
        """A state of its own that later entries do not change."""
        fields = ((name, getattr(self, name)) for name in self.__slots__)
        return RunState(**{name: copy.copy(value) for name, value in fields})

    def rows(self, table: str = "trajectories") -> int:
        """Rows of a table that a reader sees."""
        return sum(part.rows for part in self.parts.values() if part.table == table)


# ---------------------------------------------------------------- folding


def _fold_epoch(state: RunState, body: Mapping[str, Any]) -> None:
    pass


def _fold_plan(state: RunState, body: Mapping[str, Any]) -> None:
    state.arms.update(body["arms"])
    state.tasks.update(body["tasks"])
    state.samples = int(body["samples"])


def _fold_commit(state: RunState, body: Mapping[str, Any]) -> None:
    accepted = state.accepted.known
    for commit in body["commits"]:
        ids = tuple(commit["ids"])
        endings = zip(ids, commit["outcomes"], commit["rewards"], strict=True)
        for trajectory_id, outcome, reward in endings:
            if trajectory_id in accepted:
                raise ValueError(f"{trajectory_id} is accepted a second time")
            accepted[trajectory_id] = ending(outcome, reward)
        for part in commit["parts"]:
            _name_part(state, Part(**part), ids)
    _fold_attempts(state, body)


def _fold_attempts(state: RunState, body: Mapping[str, Any]) -> None:
    for trajectory_id, plain in body["attempts"].items():
        state.attempts.add(trajectory_id, plain)


@lru_cache(maxsize=4096)
def ending(outcome: str, reward: float | None) -> tuple[Outcome, float | None]:
    """The pair, one object for all rows that ended so: a run has few kinds of endings."""
    return Outcome(outcome), reward


def _fold_retract(state: RunState, body: Mapping[str, Any]) -> None:
    for path in body["removes"]:
        del state.parts[path], state.part_ids[path]
    for added in body["adds"]:
        _name_part(state, Part(**added["part"]), tuple(added["ids"]))
    for trajectory_id in body["ids"]:
        del state.accepted[trajectory_id]


def _fold_compact(state: RunState, body: Mapping[str, Any]) -> None:
    """A merged part stands where the first of those that it is made of stood."""
    merged = {path: added for added in body["adds"] for path in added["of"]}
    if merged.keys() != set(body["removes"]) or not merged.keys() <= state.parts.keys():
        raise ValueError("it merges parts that are not there")
    held, ids_of, state.parts, state.part_ids = state.parts, state.part_ids, {}, Lazily()
    for path, part in held.items():
        if path not in merged:
            _name_part(state, part, ids_of[path])
        elif path == merged[path]["of"][0]:
            ids = (name for each in merged[path]["of"] for name in ids_of[each])
            _name_part(state, Part(**merged[path]["part"]), tuple(ids))


def _fold_finish(state: RunState, body: Mapping[str, Any]) -> None:
    state.finals = int(body["n"])


def _name_part(state: RunState, part: Part, ids: tuple[str, ...]) -> None:
    if part.path in state.parts:
        raise ValueError(f"{part.path} is named a second time")
    state.parts[part.path] = part
    state.part_ids[part.path] = ids


_FOLDS: Mapping[str, Callable[[RunState, Mapping[str, Any]], None]] = {
    "epoch": _fold_epoch,
    "plan": _fold_plan,
    "commit": _fold_commit,
    "attempts": _fold_attempts,
    "retract": _fold_retract,
    "compact": _fold_compact,
    "finish": _fold_finish,
}


# ---------------------------------------------------------------- entries as JSON


def entry_path(seq: int) -> str:
    """Where entry `seq` is."""
    return f"_log/{seq:020d}.json"


def entry_seq(path: str) -> int:
    """The number of the entry at `path`, or 0 when that is no entry."""
    match = _ENTRY_PATH.fullmatch(path)
    return int(match.group(1)) if match else 0


def dump_entry(entry: Entry) -> bytes:
    """The entry as JSON; not-a-number is refused, since other languages read the log too."""
    # Not `asdict`, which copies the whole body first.
    plain = {name: getattr(entry, name) for name in Entry.__slots__}
    return json.dumps({"version": LOG_VERSION, **plain}, allow_nan=False).encode()


def parse_entry(seq: int, data: bytes) -> Entry:
    """The entry, or a StoreError that names it and says what is wrong."""
    where = entry_path(seq)
    try:
        plain = json.loads(data)
        version = plain.pop("version")
        if version > LOG_VERSION:
            raise StoreError(
                f"{where} is of version {version}, this program knows {LOG_VERSION}: a newer "
                "rollout wrote it; use that one"
            )
        entry = Entry(**plain)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise StoreError(
            f"{where} is damaged ({len(data)} bytes): {type(exc).__name__}: {exc}"
        ) from exc
    if entry.seq != seq:
        raise StoreError(f"{where} says it is entry {entry.seq}: the log is damaged")
    return entry


def dump_commit(request: CommitRequest) -> dict[str, Any]:
    """A request as it stands in a commit entry; its attempts stand beside, merged."""
    return {
        "worker": request.worker,
        "epoch": request.epoch,
        "parts": [asdict(part) for part in request.parts],
        "ids": list(request.trajectory_ids),
        "outcomes": [outcome.value for outcome in request.outcomes],
        "rewards": list(request.rewards),
    }
