"""Who made what: an owner holds a lock on its folder, and all it makes is named below it.

The kernel lets the lock go when the process ends, however it ends. Whoever starts next takes what
no living owner holds: processes and control groups first, then files. Mounts need no sweeping,
since they exist only in the mount namespaces of a launcher and its sandboxes and end with them.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rollout.errors import SandboxError
from rollout.sandbox.cgroups import Hierarchies
from rollout.sandbox.init.build import binary

RANGE = 65_536
"""Host uids of one slot."""
SLOTS_PER_BLOCK = 64
SLOTS = Path("/run/rollout/slots")
"""The locks of the machine's uid ranges; not below a root folder, of which there may be several."""
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
TOPDIR_FLAG = 0x00020000


class Belongings(Protocol):
    """What owners have beside their folders."""

    def owners(self) -> frozenset[str]:
        """All owners of whom anything is left."""

    def end_owner(self, owner: str) -> None:
        """End whatever runs for this owner and remove it. Blocks, bounded."""


class Owner:
    """One engine's claim: `folder` and every name below it, until `release`."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.id = folder.name
        self.folder = folder
        self._lock = lock

    @classmethod
    def claim(cls, root_dir: Path, hierarchies: Belongings) -> "Owner":
        """Sweep what dead owners left, then take a new folder. Blocks."""
        owners = root_dir / "owners"
        try:
            owners.mkdir(mode=0o700, parents=True, exist_ok=True)
            root_dir.chmod(0o700)
        except OSError as exc:
            raise SandboxError(
                f"cannot make {owners}: {exc.strerror}; set engine.root_dir to a folder that "
                "can be written"
            ) from exc
        with _locked(root_dir / "owners.lock"):
            _sweep(root_dir, hierarchies)
            folder = owners / f"{_mark(root_dir)}-{uuid.uuid4().hex[:8]}"
            folder.mkdir(mode=0o700)
            lock = _try_lock(folder / "lock")
            assert lock is not None
        for name in ("b", "spare", "layers"):
            (folder / name).mkdir(mode=0o700)
        for name in ("b", "spare"):
            _spread_children(folder / name)
        return cls(folder, lock)

    def release(self) -> None:
        """Remove the folder and give up the lock. Blocks; idempotent."""
        if self._lock < 0:
            return
        remove_tree(self.folder)
        os.close(self._lock)
        self._lock = -1


def sweep(root_dir: Path) -> tuple[str, ...]:
    """End and remove all that dead owners left; the names of those owners. Blocks."""
    with _locked(root_dir / "owners.lock"):
        return _sweep(root_dir, Hierarchies.of_machine())


def _sweep(root_dir: Path, hierarchies: Belongings) -> tuple[str, ...]:
    swept = []
    for folder in sorted((root_dir / "owners").iterdir()):
        lock = _try_lock(folder / "lock")
        if lock is None:
            continue
        try:
            hierarchies.end_owner(folder.name)
            remove_tree(folder)
        finally:
            os.close(lock)
        swept.append(folder.name)
    for name in hierarchies.owners():
        if name.startswith(f"{_mark(root_dir)}-") and not (root_dir / "owners" / name).exists():
            hierarchies.end_owner(name)
            swept.append(name)
    return tuple(swept)


def _mark(root_dir: Path) -> str:
    """Tells the control groups of one root folder's owners from those of another's."""
    return hashlib.sha256(str(root_dir.resolve()).encode()).hexdigest()[:6]


class Slots:
    """Ranges of host uids, one for each sandbox of this machine, shared among processes by locks.

    They are taken in blocks: a lock for each sandbox would cost a descriptor for each.
    """

    def __init__(self, uid_base: int, max_slots: int, *, folder: Path = SLOTS) -> None:
        self._folder = folder
        self._uid_base = uid_base
        self._blocks = max(1, max_slots // SLOTS_PER_BLOCK)
        self._locks: dict[int, int] = {}
        self._free: list[int] = []

    def take(self, wanted: int | None = None) -> int:
        """The first uid of a free range; `wanted` if that one is free."""
        if wanted in self._free:
            self._free.remove(wanted)
            return wanted
        if not self._free:
            self._take_block()
        return self._free.pop()

    def give(self, uid: int) -> None:
        self._free.append(uid)

    def close(self) -> None:
        for lock in self._locks.values():
            os.close(lock)
        self._locks.clear()
        self._free.clear()

    def _take_block(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for block in range(self._blocks):
            if block in self._locks:
                continue
            first = self._uid_base + block * SLOTS_PER_BLOCK * RANGE
            lock = _try_lock(self._folder / str(first))
            if lock is not None:
                self._locks[block] = lock
                self._free = [first + n * RANGE for n in reversed(range(SLOTS_PER_BLOCK))]
                return
        raise SandboxError(
            f"all {self._blocks * SLOTS_PER_BLOCK} uid ranges from {self._uid_base} are in use on "
            "this machine: raise engine.max_slots or run fewer workers"
        )


def remove_tree(path: Path) -> None:
    """Remove a folder with all that a sandbox wrote there: any depth, and no link is followed."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (RecursionError, OSError):
        command = ("rm", "-rf", "--one-file-system", "--", str(path))
        subprocess.run(owning(command), check=False, capture_output=True)


def owning(command: Sequence[str], *, of: int = 0) -> Sequence[str]:
    """A command that has every right over our files, as root has: an ordinary user that owns a
    folder of mode 0, such as overlays leave, could not look into it (see init/clear.c).

    `of`: a launcher, whose open files it may then reach, too.
    """
    return command if os.geteuid() == 0 else (str(binary()), "owning", str(of), *command)


def _spread_children(folder: Path) -> None:
    """Tell ext4 to place each child in a block group of its own.

    Else all sandboxes share one group, whose inodes, just deleted, ext4 avoids for minutes by
    looking at each: making a file gets ten times slower. Other file systems know no such flag.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            flags = int.from_bytes(fcntl.ioctl(handle, FS_IOC_GETFLAGS, bytes(8)), "little")
            fcntl.ioctl(handle, FS_IOC_SETFLAGS, (flags | TOPDIR_FLAG).to_bytes(8, "little"))
    finally:
        os.close(handle)


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
