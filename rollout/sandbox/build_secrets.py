"""Secrets of `run` steps: read when they are needed, given to one command, looked for afterwards.

A step may hand on what it was given, by accident or not: into a file, a file's name, its output.
So the value is masked in all that is said, and a layer in which it stands is refused. Found is the
value as it is and in base64, at whatever offset; not what was compressed or encrypted.
"""

import base64
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import BuildError
from rollout.types import BuildStep, Secret

LEAST_BYTES = 8
"""A shorter value stands in every other file by chance, and nothing could be told of it."""
LIMIT_BYTES = 64 << 10
MASK = b"[secret]"
_CHUNK_BYTES = 1 << 20
_LINE_BYTES = 57
"""In 76 digits of base64."""


@dataclass(frozen=True, slots=True)
class Given:
    """A secret of one step, with its value."""

    secret: Secret
    value: str

    @property
    def target(self) -> str:
        """The file it is read from; empty where it is a variable."""
        if self.secret.env:
            return ""
        return self.secret.target or f"/run/secrets/{self.secret.id}"


def read_secrets(step: BuildStep, names: Mapping[str, str], where: str) -> tuple[Given, ...]:
    """What the step is given, out of this process's environment. BuildError if one is lacking.

    names: id to the name of the variable; `where` begins the error message.
    """
    given = []
    for secret in step.secrets:
        name = names.get(secret.id, "")
        value = os.environ.get(name, "") if name else ""
        if not value and secret.required:
            lacks = f"{name} is not set on this worker" if name else "blueprint.secrets has none"
            raise BuildError(f"{where}: the secret {secret.id!r} is required, and {lacks}")
        if not value:
            continue
        size = len(os.fsencode(value))
        if not LEAST_BYTES <= size <= LIMIT_BYTES:
            raise BuildError(
                f"{where}: the secret {secret.id!r} ({name}) has {size} bytes; {LEAST_BYTES} to "
                f"{LIMIT_BYTES} are possible, for a shorter one could not be told from chance"
            )
        given.append(Given(secret, value))
    return tuple(given)


def traces(values: Iterable[str]) -> tuple[bytes, ...]:
    """The byte strings that give a value away, longest first."""
    found: set[bytes] = set()
    for value in values:
        for plain in {os.fsencode(value), os.fsencode(value).strip()}:
            if len(plain) >= LEAST_BYTES:
                found.add(plain)
                found.update(_in_base64(plain))
    return tuple(sorted(found, key=lambda trace: (-len(trace), trace)))


def _in_base64(value: bytes) -> Iterable[bytes]:
    """What of its base64 does not depend on what stands before and after it, and each line of it
    as programs break lines."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            aligned = value[-before % 3 :]
            yield encode(aligned[: len(aligned) - len(aligned) % 3])
        for at in range(0, len(value) - _LINE_BYTES, _LINE_BYTES):
            yield encode(value[at : at + _LINE_BYTES])


class Masked:
    """A stream of output in which no trace is left, whatever pieces it comes in."""

    def __init__(self, found: Sequence[bytes]) -> None:
        self._traces = found
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """All of what came so far that can be told to hold nothing."""
        if not self._traces:
            return data
        text = self._mask(self._held + data)
        keep = self._begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _mask(self, text: bytes) -> bytes:
        for trace in self._traces:
            text = text.replace(trace, MASK)
        return text

    def _begun(self, text: bytes) -> int:
        """How much of the end might be the beginning of a trace."""
        longest = max(len(trace) for trace in self._traces) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(trace.startswith(text[-size:]) for trace in self._traces):
                return size
        return 0


def find_trace(folders: Iterable[Path], found: Sequence[bytes]) -> str:
    """The first path below `folders` that holds a trace, in its name or content; masked. Blocks.

    Nobody may write there meanwhile. No link is followed, no name opened but within its folder.
    """
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for above, names, files, at in os.fwalk(b".", dir_fd=handle, follow_symlinks=False):
                for name in (*names, *files):
                    if _holds(name, at, found):
                        masked = Masked(found)
                        path = masked.feed(above[1:] + b"/" + name) + masked.rest()
                        return path.decode(errors="backslashreplace")
        finally:
            os.close(handle)
    return ""


def _holds(name: bytes, at: int, found: Sequence[bytes]) -> bool:
    about = os.stat(name, dir_fd=at, follow_symlinks=False)
    if any(trace in name for trace in found):
        return True
    if stat.S_ISLNK(about.st_mode):
        target = os.readlink(name, dir_fd=at)
        return any(trace in target for trace in found)
    if not stat.S_ISREG(about.st_mode):
        return False
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        told = (os.getxattr(file, attribute) for attribute in os.listxattr(file))
        return any(trace in value for value in told for trace in found) or _content(file, found)
    finally:
        os.close(file)


def _content(file: int, found: Sequence[bytes]) -> bool:
    overlap = max(len(trace) for trace in found) - 1
    held = b""
    while piece := os.read(file, _CHUNK_BYTES):
        held += piece
        if any(trace in held for trace in found):
            return True
        held = held[-overlap:]
    return False
