"""Groups as they become whole, while the run goes on.

    groups = dataset.groups(follow=True)
    for group in groups:
        ...
        checkpoint["cursor"] = groups.cursor    # later: dataset.groups(checkpoint["cursor"])

The cursor is the place of the row that made the last group whole. To go on from one, what was
committed before is counted and not read, so only members of groups in the making are held.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from rollout.dataset.tail import Kind, Place, Tail
from rollout.types import Group, Trajectory


@dataclass(frozen=True, slots=True)
class Key:
    """Of a row, what tells which group it is in."""

    group_id: str
    group_size: int


def _keys(tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, Key]]:
    for row in tables["trajectories"].to_pylist():
        yield row["trajectory_id"], Key(row["group_id"], row["group_size"])


KEYS = Kind({"trajectories": ["trajectory_id", "group_id", "group_size"]}, _keys)


class Groups:
    """Iterates over groups; `cursor` is the place after the last one given.

    A group that grows later, by more samples or by a rollout made again, is given again, whole.
    """

    def __init__(
        self,
        before: Iterable[Key],
        tail: Tail[Trajectory],
        load: Callable[[Collection[str], Place], Iterable[Trajectory]],
        *,
        complete: bool,
    ) -> None:
        """
        before: what was committed before the tail begins.
        tail: what is given from here on.
        load: what was committed, up to a place, of groups by their ids.
        complete: leave out, at the end, groups that lack a member.
        """
        self._tail, self._load, self._complete = tail, load, complete
        self._place = tail.place
        self._given: dict[str, int] = {}
        """Group to how many members it had when it was given."""
        self._making = self._begun(before)
        """Groups of which some members are there: by sample."""
        self._groups = self._all()

    @property
    def cursor(self) -> str:
        return str(self._place)

    def __iter__(self) -> "Groups":
        return self

    def __next__(self) -> Group:
        return next(self._groups)

    def _begun(self, before: Iterable[Key]) -> dict[str, dict[int, Trajectory]]:
        counts: dict[str, int] = {}
        for key in before:
            counts[key.group_id] = counts.get(key.group_id, 0) + 1
            if counts[key.group_id] >= key.group_size:
                self._given[key.group_id] = counts[key.group_id]
        begun = [name for name, count in counts.items() if count != self._given.get(name)]
        return self._members(begun, self._place) if begun else {}

    def _members(self, group_ids: Collection[str], stop: Place) -> dict[str, dict[int, Trajectory]]:
        members: dict[str, dict[int, Trajectory]] = {}
        for row in self._load(group_ids, stop):
            members.setdefault(row.spec.group_id, {})[row.spec.sample] = row
        return members

    def _all(self) -> Iterator[Group]:
        for row in self._tail:
            name = row.spec.group_id
            if self._given.pop(name, 0):
                self._making |= self._members([name], self._tail.place)
            members = self._making.setdefault(name, {})
            members[row.spec.sample] = row
            if len(members) >= row.spec.group_size:
                self._given[name] = len(members)
                self._place = self._tail.place
                yield _group(self._making.pop(name))
        if not self._complete:
            self._place = self._tail.place
            for members in self._making.values():
                yield _group(members)


def _group(members: Mapping[int, Trajectory]) -> Group:
    rows = [members[sample] for sample in sorted(members)]
    spec = rows[0].spec
    return Group(
        group_id=spec.group_id,
        arm=spec.arm,
        task_id=spec.task_id,
        size=max(row.spec.group_size for row in rows),
        trajectories=tuple(rows),
    )
