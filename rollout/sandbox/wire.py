"""The codec of the init's wire, version 1: pure, no I/O. `init/wire.h` is its other half.

A connection carries one operation, or several EXECs with KEEP one after the other: a request, then
frames both ways. All that comes from an init is hostile, so the decoder holds at most one frame and
knows no error but SandboxError.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from rollout.errors import SandboxError

VERSION = 1
MAX_REQUEST_BYTES = 8 << 20
MAX_PAYLOAD_BYTES = 64 << 10
NO_LIMIT = (1 << 64) - 1
MAX_PATH_BYTES = 4096
LAST_SIGNAL = 64
"""Linux's own limit, with its NUL."""


class Op(IntEnum):
    """What a connection is for."""

    EXEC = 1
    KILL_ALL = 2
    PING = 3
    READ_FILE = 4
    WRITE_FILE = 5
    PACK_TREE = 6
    UNPACK_TREE = 7
    REMOVE = 8
    LISTEN = 9
    CONNECT = 10
    SIGNAL = 11


class In(IntEnum):
    """Frames from the host to the init."""

    STDIN = 1
    STDIN_EOF = 2
    RESIZE = 3
    DATA = 5
    ENTRY = 6
    END = 7


class Out(IntEnum):
    """Frames from the init to the host."""

    STDOUT = 33
    STDERR = 34
    EXIT = 35
    ERROR = 36
    DATA = 37
    ENTRY = 38
    OK = 39
    STARTED = 40


class ExecFlag(IntFlag):
    """How a process is started."""

    STDIN = 1
    PTY = 2
    ANNOUNCE = 4
    """Say STARTED once it runs."""
    KEEP = 8
    """Take another request after EXIT. Not with STDIN or PTY."""


KINDS = {"file": b"f", "dir": b"d", "link": b"l", "other": b"o"}
_KIND_NAMES = {letter[0]: name for name, letter in KINDS.items()}

_LENGTH = struct.Struct("<I")
_FRAME = struct.Struct("<BI")
_HEAD = struct.Struct("<BBH")
_EXEC = struct.Struct("<BBHIQHHII")
_FILE = struct.Struct("<BBHIQI")
_SIGNAL = struct.Struct("<BBHII")
_PORT = struct.Struct("<BBHH")
_SIZE = struct.Struct("<HH")
_EXIT = struct.Struct("<iI")
_ENTRY = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    code: int
    truncated: bool
    timed_out: bool
    killed: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation was not done, in the init's words. Text from a sandbox: only for people."""

    errno: int
    text: str


@dataclass(frozen=True, slots=True)
class EntryHead:
    """A name of a tree as an init told it: not checked, not to be followed."""

    kind: str
    mode: int
    path: bytes
    target: bytes


# ---------------------------------------------------------------- requests


def exec_request(
    argv: Sequence[str | bytes],
    *,
    env: Mapping[str, str],
    cwd: str = "",
    user: str = "",
    timeout_ms: int = 0,
    output_limit_bytes: int = NO_LIMIT,
    flags: ExecFlag | int = 0,
    rows: int = 0,
    cols: int = 0,
) -> bytes:
    """Start a process. Non-UTF-8 bytes travel as `bytes` or as surrogate escapes."""
    if not argv:
        raise SandboxError("exec: argv is empty")
    head = _EXEC.pack(
        VERSION,
        Op.EXEC,
        flags,
        min(_count(timeout_ms), (1 << 32) - 1),
        min(_count(output_limit_bytes), NO_LIMIT),
        *_terminal(rows, cols),
        len(argv),
        len(env),
    )
    strings = [cwd, user, *argv, *(f"{key}={value}" for key, value in env.items())]
    return _request(head + _strings(strings))


def file_request(
    op: Op,
    path: str,
    *,
    owner: str = "",
    mode: int = 0,
    limit_bytes: int = NO_LIMIT,
    limit_entries: int = (1 << 32) - 1,
) -> bytes:
    """READ_FILE, WRITE_FILE, PACK_TREE, UNPACK_TREE or REMOVE of an absolute path."""
    if not path.startswith("/"):
        raise SandboxError(f"{op.name.lower()}: {path!r} is no absolute path of the sandbox")
    limit_bytes = min(_count(limit_bytes), NO_LIMIT)
    limit_entries = min(_count(limit_entries), (1 << 32) - 1)
    head = _FILE.pack(VERSION, op, 0, mode & 0o7777, limit_bytes, limit_entries)
    return _request(head + _strings([path, owner]))


def port_request(op: Op, port: int) -> bytes:
    """LISTEN or CONNECT on the sandbox's 127.0.0.1."""
    if not 0 <= port <= 65535:
        raise SandboxError(f"{op.name.lower()}: {port} is no port")
    return _request(_PORT.pack(VERSION, op, 0, port))


def signal_request(pid: int, number: int) -> bytes:
    """SIGNAL to the process group of a process that was started here."""
    if not 1 <= number <= LAST_SIGNAL:
        raise SandboxError(f"{number} is no signal")
    if not 1 <= pid < 1 << 31:
        raise SandboxError(f"{pid} is no process")
    return _request(_SIGNAL.pack(VERSION, Op.SIGNAL, 0, pid, number))


def plain_request(op: Op) -> bytes:
    """KILL_ALL or PING."""
    return _request(_HEAD.pack(VERSION, op, 0))


def _count(number: int) -> int:
    if number < 0:
        raise SandboxError(f"a limit of {number}")
    return number


def _terminal(rows: int, cols: int) -> tuple[int, int]:
    if not (0 <= rows <= 65535 and 0 <= cols <= 65535):
        raise SandboxError(f"a terminal of {rows} x {cols} characters")
    return rows, cols


def _request(body: bytes) -> bytes:
    if len(body) > MAX_REQUEST_BYTES:
        raise SandboxError(
            f"a request of {len(body)} bytes; arguments, variables and paths "
            f"may take {MAX_REQUEST_BYTES} together"
        )
    return _LENGTH.pack(len(body)) + body


def _strings(values: Iterable[str | bytes]) -> bytes:
    encoded = [v if isinstance(v, bytes) else _encode(v) for v in values]
    joined = b"\0".join(encoded) + b"\0"
    if joined.count(0) != len(encoded):
        bad = next(value for value in encoded if b"\0" in value)
        raise SandboxError(f"a NUL byte in {bad[:200]!r}: no argument, variable or path has one")
    return joined


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise SandboxError(f"{text[:200]!r} cannot be written in UTF-8: {exc.reason}") from exc


# ---------------------------------------------------------------- frames to the init


def frame(kind: In | Out, payload: bytes | memoryview = b"") -> bytes:
    """One frame with a payload that fits."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SandboxError(f"a frame of {len(payload)} bytes; {MAX_PAYLOAD_BYTES} fit")
    return _FRAME.pack(kind, len(payload)) + payload


def frames(kind: In | Out, data: bytes) -> Iterable[bytes]:
    """`data` of any size as frames of one kind; none where there is none."""
    view = memoryview(data)
    for start in range(0, len(view), MAX_PAYLOAD_BYTES):
        yield frame(kind, view[start : start + MAX_PAYLOAD_BYTES])


def resize(rows: int, cols: int) -> bytes:
    """The new size of a terminal, in characters."""
    return frame(In.RESIZE, _SIZE.pack(*_terminal(rows, cols)))


def entry(head: EntryHead, kind: In | Out = In.ENTRY) -> bytes:
    """A name of a tree; its content follows as DATA frames."""
    if len(head.path) >= MAX_PATH_BYTES or len(head.target) >= MAX_PATH_BYTES:
        raise SandboxError(f"a name of more than {MAX_PATH_BYTES - 1} bytes: {head.path[:80]!r}…")
    fixed = _ENTRY.pack(KINDS[head.kind][0], head.mode & 0o7777)
    return frame(kind, fixed + _strings([head.path, head.target]))


# ---------------------------------------------------------------- frames from the init


class Decoder:
    """Bytes in, whole frames out. Between calls it holds less than one frame of the largest."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, as (type, payload). SandboxError for one too large."""
        if self._rest:
            data = self._rest + data
        found = []
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            kind, length = _FRAME.unpack_from(data, at)
            if length > MAX_PAYLOAD_BYTES:
                raise SandboxError(f"init sent a frame of {length} bytes, type {kind}")
            after = at + _FRAME.size + length
            if after > end:
                break
            found.append((kind, data[at + _FRAME.size : after]))
            at = after
        self._rest = data[at:]
        return found


def read_exit(payload: bytes) -> Exit:
    code, flags = _unpack(_EXIT, payload, "exit")
    if not 0 <= code <= 255:
        raise SandboxError(f"init told an exit code of {code}")
    # No IntFlag: asking one for its members takes longer than all the rest here.
    return Exit(code, bool(flags & 1), bool(flags & 2), bool(flags & 4))


def read_failure(payload: bytes) -> Failure:
    if len(payload) < _LENGTH.size:
        raise SandboxError("init sent a malformed error frame")
    (errno,) = _LENGTH.unpack_from(payload)
    return Failure(errno, payload[_LENGTH.size :][:2000].decode("utf-8", "replace"))


def read_started(payload: bytes) -> int:
    (pid,) = _unpack(_LENGTH, payload, "started")
    if not 0 < pid < 1 << 31:
        raise SandboxError(f"init told a process number of {pid}")
    return int(pid)


def read_entry(payload: bytes) -> EntryHead:
    strings = payload[_ENTRY.size :].split(b"\0", 3)
    if len(payload) < _ENTRY.size or len(strings) != 3 or strings[2]:
        raise SandboxError("init sent a malformed entry frame")
    letter, mode = _ENTRY.unpack_from(payload)
    kind = _KIND_NAMES.get(letter)
    if kind is None or mode > 0o7777 or max(map(len, strings)) >= MAX_PATH_BYTES:
        raise SandboxError(f"init sent an entry of kind {letter} and mode {mode:o}")
    return EntryHead(kind, mode, strings[0], strings[1])


def _unpack(layout: struct.Struct, payload: bytes, what: str) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise SandboxError(f"init sent a malformed {what} frame")
    return layout.unpack(payload)
