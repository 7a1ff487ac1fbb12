"""Rooms, made ahead by the launcher: all of a sandbox but its processes (see init/rooms.c).

A room is for one image, one kind of scratch and one range of uids, so it helps only who asks for
the same again. What was asked for twice lately, or often for long, is expected to be asked for once
more; each such recipe gets an equal share of a small number. Images that sandboxes left are asked
for by few, and get none.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout.errors import SandboxError

MOST = 8
"""Of one engine; each costs 0.25 MB and a range of uids."""
RECENT = 16
"""So many sandboxes back is lately."""
LONG = 128
OFTEN = LONG // MOST
"""More of the last `LONG` than this; there are less than `MOST` such recipes."""
AT_A_TIME = 2
"""One for the room just used, and one more until the share is there."""

log = logging.getLogger(__name__)


class Ranges(Protocol):
    """Of uids; see `owner.Slots`."""

    def take(self, wanted: int | None = None) -> int: ...

    def give(self, uid: int) -> None: ...


class Maker(Protocol):
    """The launcher, as far as rooms go."""

    @property
    def alive(self) -> bool: ...

    def order(self, room: str, fields: Sequence[tuple[str, str]]) -> None: ...

    def drop(self, room: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all rooms of one kind have in common."""

    layers: tuple[str, ...]
    subvolume_bytes: int | None = None
    """None: scratch on plain disk."""
    volume: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """One that was ordered; whether it is ready is the launcher's to know."""

    name: str
    uid: int
    recipe: Recipe


class Rooms:
    """The rooms of one engine, and the ranges of uids that they share with sandboxes."""

    def __init__(self, ranges: Ranges, clear: Callable[[str], None], *, most: int = MOST) -> None:
        """`clear` is called with the name of each room that was not used, to remove its files."""
        self._ranges = ranges
        self._clear = clear
        self._most = most
        self._recent: deque[Recipe] = deque(maxlen=RECENT)
        self._long: deque[Recipe] = deque(maxlen=LONG)
        self._rooms: list[Room] = []
        self._maker: Maker | None = None
        self._refused: Recipe | None = None
        self._count = 0

    def take(self, recipe: Recipe, maker: Maker) -> Room | None:
        """The oldest that fits. Asking counts, whether there is one or not."""
        if self._maker is not maker:
            self._give_up(self._rooms)  # they went with their launcher
            self._maker = maker
        self._recent.append(recipe)
        self._long.append(recipe)
        room = next((room for room in self._rooms if room.recipe == recipe), None)
        if room is not None:
            self._rooms.remove(room)
        return room

    def take_uid(self, wanted: int) -> int:
        """A range for a sandbox without a room; rooms give way where no other is free."""
        try:
            return self._ranges.take(wanted)
        except SandboxError:
            if not self._rooms:
                raise
            self._give_up(self._rooms)
            return self._ranges.take(wanted)

    def replenish(self, recipe: Recipe, fields: Sequence[tuple[str, str]]) -> None:
        """Order what `recipe` lacks of its share. `fields`: the launcher's request, less uids."""
        maker = self._maker
        if maker is None or not maker.alive or recipe == self._refused:
            return
        shares = self._shares()
        coming = max(0, min(AT_A_TIME, shares.get(recipe, 0) - self._held(recipe)))
        self._give_up(self._surplus(shares, coming))
        for _ in range(min(coming, self._most - len(self._rooms))):
            try:
                uid = self._ranges.take()
            except SandboxError:
                return  # sandboxes need them more
            self._count += 1
            room = Room(f"r{self._count}", uid, recipe)
            self._rooms.append(room)
            maker.order(room.name, [("uids", str(uid)), *fields])

    def leave(self, volume: str) -> None:
        """Give up those on a volume that is lost: each keeps it mounted, and its space taken."""
        self._give_up([room for room in self._rooms if room.recipe.volume == volume])

    def dropped(self, name: str, why: str) -> None:
        """The launcher is done with a room that nobody used, or could not make it: no such is
        ordered again."""
        room = next((room for room in self._rooms if room.name == name), None)
        if room is not None:
            self._rooms.remove(room)
            self._ranges.give(room.uid)
        if room is not None and why:
            log.warning("no sandbox of image %s is prepared: %s", room.recipe.layers[-1], why)
            self._refused = room.recipe
        self._clear(name)

    def _give_up(self, rooms: Sequence[Room]) -> None:
        """Their uids are free at once, for nobody ever ran there."""
        for room in list(rooms):
            self._rooms.remove(room)
            self._ranges.give(room.uid)
            if self._maker is not None and self._maker.alive:
                self._maker.drop(room.name)

    def _surplus(self, shares: dict[Recipe, int], coming: int) -> list[Room]:
        """The oldest of those beyond their share, as many as are in the way of those `coming`."""
        over: list[Room] = []
        held = Counter(room.recipe for room in self._rooms)
        for room in self._rooms:
            if len(self._rooms) - len(over) + coming <= self._most:
                break
            if held[room.recipe] > shares.get(room.recipe, 0):
                held[room.recipe] -= 1
                over.append(room)
        return over

    def _held(self, recipe: Recipe) -> int:
        return sum(room.recipe == recipe for room in self._rooms)

    def _shares(self) -> dict[Recipe, int]:
        expected = {recipe for recipe, count in Counter(self._recent).items() if count > 1}
        expected |= {recipe for recipe, count in Counter(self._long).items() if count > OFTEN}
        return {recipe: self._most // len(expected) for recipe in expected}
