"""Memory directories above those of single sandboxes.

Groups are shared by several sandboxes, for where one each would cost too much. A group's limit is
the sum of its members' limits. So together they take no more than was given out, but one that takes
more than its part has its neighbours' processes killed as well as its own: all members belong to
one owner, each process has an rlimit, and the watcher looks at the rest. Batches only stand above.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rollout.sandbox.controllers import (
    GroupedMemoryLimit,
    Writes,
    killed_for_memory,
    memory_writes,
    write_text,
)

BATCH = 256
"""Memory directories of ended sandboxes that the kernel may keep while one in the batch lives."""


@dataclass(slots=True, eq=False)
class MemoryGroup:
    """One shared directory. Only `settle` may block, and may be called from any thread."""

    folder: Path
    in_v2: bool
    members: dict[str, int] = field(default_factory=dict)
    """Sandbox to MiB."""

    @property
    def total_mb(self) -> int:
        return sum(list(self.members.values()))

    def limit_of(self, sandbox: str, own: Path) -> GroupedMemoryLimit:
        """`own`: the sandbox's version 2 directory."""
        before = killed_for_memory(self.folder, in_v2=self.in_v2)
        return GroupedMemoryLimit(self.folder, self.members[sandbox], self.in_v2, own, before)

    def raise_writes(self) -> Writes:
        """For before a new member starts."""
        writes = memory_writes(self.folder, self.total_mb, in_v2=self.in_v2)
        # The limit with swap may never be the smaller; a new directory has none of either.
        return writes if len(self.members) == 1 else writes[::-1]

    def settle(self) -> None:
        """Lower the limit to what the members have now. It may take the kernel a while to write
        back what a dead member left, and in version 1 it may fail: then the next one does it."""
        written = -1
        while self.members and written != self.total_mb:  # who comes or goes meanwhile counts
            written = self.total_mb
            # Twice, for one of the two files has to wait for the other, whichever way it goes.
            for file, text in memory_writes(self.folder, written, in_v2=self.in_v2) * 2:
                with suppress(OSError):
                    write_text(file, text)


class Batches:
    """Folders of version 1, each above the memory directories of some hundred sandboxes.

    What a dead sandbox left in the page cache stays charged to its memory directory, and while
    any is left the kernel keeps all it knew of that directory, 22 KiB and more, removed or not.
    Such rests can only be asked back from above, which asks those that live there too: so from
    right above them, and once all of them have ended.
    """

    def __init__(self, top: Path, *, size: int = BATCH) -> None:
        self._top = top
        self._size = size
        self._living: dict[Path, set[str]] = {}
        self._of: dict[str, Path] = {}
        self._open = top
        self._room = 0
        self._made = 0

    def join(self, sandbox: str) -> Path:
        """The folder for this sandbox's directory; made at once."""
        if not self._room:
            self._made += 1
            self._open = self._top / f"b{self._made}"
            self._open.mkdir()
            self._room = self._size
            self._living[self._open] = set()
        self._room -= 1
        self._living[self._open].add(sandbox)
        self._of[sandbox] = self._open
        return self._open

    def leave(self, sandbox: str) -> Path | None:
        """The folder it was in, if nobody lives there and nobody will: to be emptied, removed."""
        folder = self._of.pop(sandbox, None)
        if folder is None:
            return None
        self._living[folder].discard(sandbox)
        if self._living[folder] or (folder == self._open and self._room):
            return None
        del self._living[folder]
        return folder


class MemoryGroups:
    """The groups of one owner, below `top` of the hierarchy that has the memory controller."""

    def __init__(self, top: Path, in_v2: Collection[str], *, size: int) -> None:
        """`in_v2`: controllers that version 2 gives the owner."""
        self._top = top
        self._in_v2 = in_v2
        self._size = size
        self._groups: dict[str, MemoryGroup] = {}
        self._with_room: list[MemoryGroup] = []
        self._made = 0

    def join(self, sandbox: str, memory_mb: int) -> MemoryGroup:
        """A group with room, or a new one whose directory is made at once."""
        group = self._with_room[-1] if self._with_room else self._make()
        group.members[sandbox] = memory_mb
        self._groups[sandbox] = group
        if len(group.members) >= self._size:
            self._with_room.remove(group)
        return group

    def leave(self, sandbox: str) -> MemoryGroup | None:
        """The group it was in: to be settled, or if it has no members, to be removed for good."""
        group = self._groups.pop(sandbox, None)
        if group is None:
            return None
        del group.members[sandbox]
        if group in self._with_room:
            self._with_room.remove(group)
        if group.members:
            self._with_room.append(group)
        return group

    def _make(self) -> MemoryGroup:
        self._made += 1
        in_v2 = "memory" in self._in_v2
        group = MemoryGroup(self._top / f"g{self._made}", in_v2)
        if in_v2:
            hand_down(group.folder, set(self._in_v2) - {"memory"})
        else:
            group.folder.mkdir()
        self._with_room.append(group)
        return group


def hand_down(folder: Path, controllers: Collection[str]) -> None:
    """Make a version 2 directory whose children have these controllers and no others."""
    folder.mkdir(exist_ok=True)
    for name in sorted(controllers):
        write_text(folder / "cgroup.subtree_control", f"+{name}")
