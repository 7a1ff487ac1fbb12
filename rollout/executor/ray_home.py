"""The folder of a Ray that a run starts for itself: private, and gone with the run.

Ray would leave its logs and sockets in a shared place for ever. A flock on the folder says that
its owner lives; whoever starts next removes the folders of dead owners, and with them the
processes that still write their logs there (two of Ray's agents outlive a killed driver).
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "rollout-ray-"
UNLOCKED_PREFIX = "rollout.ray-"

LONGEST_TMP = 30
"""Ray puts Unix sockets about 70 characters below; the kernel's limit for their paths is 107."""


class RayHome:
    """A locked folder, and the token that guards the Ray in it."""

    def __init__(self) -> None:
        sweep()
        self.path, self._lock = _make_locked()
        self.token_file = self.path / "token"

    def keep_token(self, token: str) -> None:
        """Readable for this user only: whoever has it may run code on the cluster."""
        descriptor = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)

    def close(self) -> None:
        """Remove it, with whatever still runs in it. Idempotent."""
        if self._lock >= 0:
            _remove(self.path)
            os.close(self._lock)
            self._lock = -1


def sweep() -> None:
    """Remove what dead owners left."""
    for path in _root().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
            finally:
                os.close(lock)


def _root() -> Path:
    root = tempfile.gettempdir()
    return Path(root if len(root) <= LONGEST_TMP else "/tmp")


def _make_locked() -> tuple[Path, int]:
    """Locked before it has the name that a sweep looks for, so no sweep can find it unlocked."""
    path = Path(tempfile.mkdtemp(prefix=UNLOCKED_PREFIX, dir=_root()))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path.rename(_root() / f"{PREFIX}{secrets.token_hex(4)}"), lock


def _remove(path: Path) -> None:
    for pid in _writing_below(path):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


def _writing_below(path: Path) -> Iterator[int]:
    """Processes that hold a file of the folder open for writing: nobody's but its Ray's."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_writes(link, path) for link in (process / "fd").iterdir()):
                yield int(process.name)


def _writes(link: Path, path: Path) -> bool:
    """The mode of a link in /proc/PID/fd tells how its file was opened."""
    return str(link.readlink()).startswith(f"{path}/") and bool(link.lstat().st_mode & 0o200)
