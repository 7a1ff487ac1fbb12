"""A mapping whose content is made when somebody first asks for it.

Who opens a run of a million rows to read it needs its parts, and hardly ever its ids.
"""

from collections.abc import Callable, Iterator, MutableMapping
from functools import cached_property, partial
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lazily(MutableMapping[K, V]):
    """Like a dict, in the order of what `load` gives."""

    def __init__(self, load: Callable[[], dict[K, V]] = dict, count: int = 0) -> None:
        """`count`: how many `load` gives, which is told without asking for them."""
        self._load, self._count = load, count

    @cached_property
    def known(self) -> dict[K, V]:
        """The dict itself: for loops in which each call counts."""
        return self._load()

    def __getitem__(self, key: K) -> V:
        return self.known[key]

    def __setitem__(self, key: K, value: V) -> None:
        self.known[key] = value

    def __delitem__(self, key: K) -> None:
        del self.known[key]

    def __contains__(self, key: object) -> bool:
        return key in self.known

    def __iter__(self) -> Iterator[K]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known) if "known" in vars(self) else self._count

    def __repr__(self) -> str:
        return repr(self.known)

    def __copy__(self) -> "Lazily[K, V]":
        if "known" not in vars(self):
            return Lazily(self._load, self._count)
        return Lazily(partial(dict, dict(self.known)), len(self.known))
