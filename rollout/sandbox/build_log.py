"""What the commands of a build said: its beginning and its end are kept, and no secret."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rollout.sandbox.build_secrets import Masked

HEAD_BYTES = 1 << 20
TAIL_BYTES = 64 << 10
TAIL_CHARS = 4_000
"""Of the end, in an error."""


class BuildLog:
    """Takes the output of one command as it comes, and keeps a bounded part of it."""

    def __init__(self, path: Path | None = None, traces: Sequence[bytes] = ()) -> None:
        """path: the file to keep it in, written anew; `None`: only the end, in memory.

        traces: what may not stand in it, see `build_secrets.traces`.
        """
        self._file = _open(path) if path else None
        self._masked = {name: Masked(traces) for name in ("stdout", "stderr")}
        self._head_left = HEAD_BYTES
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._cut = False

    def write(self, stream: str, data: bytes) -> None:
        """stream: `stdout` or `stderr`."""
        self._keep(self._masked[stream].feed(data))

    def _keep(self, data: bytes) -> None:
        head, rest = data[: self._head_left], data[self._head_left :]
        self._head_left -= len(head)
        if self._file is not None and head:
            self._file.write(head)
        self._cut = self._cut or bool(rest)
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())

    def finish(self) -> str:
        """Close the file; the end of what was said."""
        for masked in self._masked.values():
            self._keep(masked.rest())
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        if self._file is not None:
            if self._cut:
                self._file.write(b"\n[... the middle was not kept ...]\n" + tail)
            self._file.close()
        return tail.decode(errors="replace").strip()[-TAIL_CHARS:]


def _open(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")
