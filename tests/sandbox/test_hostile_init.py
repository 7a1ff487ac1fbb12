"""Every call of the client against an init that breaks every rule of the wire.

Each ends by its deadline with a typed error (or with a result, where what was sent passes for one),
in bounded memory, leaves the event loop to the others meanwhile, and leaks no descriptor.
"""

import asyncio
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox import process, wire
from rollout.sandbox.client import InitClient
from rollout.types import Tree, TreeEntry
from tests.sandbox.hostile_init import HostileInit, Play, hostile_init

DEADLINE_S = 0.05
"""Of every call here, for which a liar makes it wait."""
HONEST_DEADLINE_S = 10.0
"""Of the same calls, where they hear the truth."""
LATE_S = 3.0
"""What a machine that has much else to do may add to it."""
MOST_CPU_AT_ONCE_S = 1.0
"""The longest that this process may compute for one connection while others wait."""
MOST_MEMORY = 64 << 20
"""What a call may hold at its worst, above what it was given; its own limits are 1 MB."""
MOST_DESCRIPTORS = 4
"""Its connection, and what an operation on ports is passed."""
LIMIT_BYTES = 1_000_000
BIG = bytes(50 << 20)
BIG_TREE = Tree(tuple(TreeEntry(f"f{n}", data=BIG[: 1 << 20], kind="file") for n in range(50)))

OK = wire.frame(wire.Out.OK)
STARTED = wire.frame(wire.Out.STARTED, struct.pack("<I", 7))
EXIT = wire.frame(wire.Out.EXIT, struct.pack("<iI", 0, 0))
FAILED = wire.frame(wire.Out.ERROR, struct.pack("<I", 5) + b"told so")


def says_entry(path: bytes, kind: str = "file") -> bytes:
    return wire.entry(wire.EntryHead(kind, 0o644, path, b""), wire.Out.ENTRY)


# ---------------------------------------------------------------- every call, and what it hopes for


async def talk(client: InitClient, stdin: bytes = b"") -> Any:
    async with await client.start(["x"], timeout_s=DEADLINE_S) as talked_to:
        await talked_to.write_stdin(stdin)
        await talked_to.close_stdin()
        return await talked_to.wait()


async def port(call: Awaitable[Any]) -> None:
    (await call).close()


CALLS: dict[str, tuple[Callable[[InitClient], Awaitable[Any]], Play]] = {
    "exec": (
        lambda client: client.exec(["x"], timeout_s=DEADLINE_S, output_limit_bytes=LIMIT_BYTES),
        Play(wire.frame(wire.Out.STDOUT, b"out") + wire.frame(wire.Out.STDERR, b"err") + EXIT),
    ),
    "exec with stdin": (
        lambda client: client.exec(["x"], stdin=BIG, timeout_s=DEADLINE_S),
        Play(wire.frame(wire.Out.STDOUT, b"out") + EXIT),
    ),
    "start": (talk, Play(STARTED + wire.frame(wire.Out.STDOUT, b"out") + EXIT)),
    "start with stdin": (lambda client: talk(client, BIG), Play(STARTED + EXIT)),
    "read_file": (
        lambda client: client.read_file("/f", limit_bytes=LIMIT_BYTES, timeout_s=DEADLINE_S),
        Play(wire.frame(wire.Out.DATA, b"content") + OK),
    ),
    "write_file": (lambda client: client.write_file("/f", BIG, timeout_s=DEADLINE_S), Play(OK)),
    "put_tree": (lambda client: client.put_tree(BIG_TREE, "/t", timeout_s=DEADLINE_S), Play(OK)),
    "get_tree": (
        lambda client: client.get_tree("/t", limit_bytes=LIMIT_BYTES, timeout_s=DEADLINE_S),
        Play(
            says_entry(b"d", "dir")
            + says_entry(b"d/f")
            + wire.frame(wire.Out.DATA, b"content")
            + OK
        ),
    ),
    "remove": (lambda client: client.remove("/f", timeout_s=DEADLINE_S), Play(OK)),
    "kill_all": (lambda client: client.kill_all(timeout_s=DEADLINE_S), Play(OK)),
    "ping": (lambda client: client.ping(DEADLINE_S), Play(OK)),
    "listen": (
        lambda client: port(client.listen(0, timeout_s=DEADLINE_S)),
        Play(OK, passes=["listening"]),
    ),
    "connect": (
        lambda client: port(client.connect(80, timeout_s=DEADLINE_S)),
        Play(OK, passes=["connected"]),
    ),
}

# ---------------------------------------------------------------- how an init may lie


def head(kind: int, length: int) -> bytes:
    return struct.pack("<BI", kind, length)


def floods() -> dict[str, Play]:
    """Frames without end: of every type, and for some the largest and the empty one."""
    made = {
        f"floods of tiny {kind.name.lower()}": Play(wire.frame(kind, b"xy") * 10_000, again=True)
        for kind in wire.Out
    }
    for kind in (wire.Out.STDOUT, wire.Out.DATA, wire.Out.ENTRY):
        name = kind.name.lower()
        made[f"floods of empty {name}"] = Play(wire.frame(kind) * 10_000, again=True)
        made[f"floods of large {name}"] = Play(wire.frame(kind, bytes(64 << 10)), again=True)
    return made


LIES: dict[str, Play] = {
    "never answers": Play(),
    "never reads": Play(reads=False),
    "closes at once": Play(stays=False),
    "closes unread": Play(reads=False, stays=False),
    "4 GB of stdout": Play(head(wire.Out.STDOUT, 0xFFFFFFFF)),
    "4 GB of data": Play(head(wire.Out.DATA, 0xFFFFFFFF) + bytes(1 << 20), again=True),
    "one byte too many": Play(head(wire.Out.DATA, (64 << 10) + 1) + bytes(64 << 10)),
    "half a head": Play(head(wire.Out.STDOUT, 5)[:3]),
    "half a frame of data": Play(head(wire.Out.DATA, 60_000) + bytes(50_000)),
    "half a frame of its end": Play(head(wire.Out.OK, 60_000) + bytes(50_000)),
    **{f"type {kind}": Play(bytes([kind, 0, 0, 0, 0]), again=True) for kind in (0, 255)},
    "a web server": Play(b"HTTP/1.1 400 Bad Request\r\n\r\n", stays=False),
    **floods(),
    "a process that is none": Play(wire.frame(wire.Out.STARTED, bytes(4)) * 10_000, again=True),
    "output of two bytes each": Play(
        STARTED + wire.frame(wire.Out.STDERR, b"xy") * 100_000, again=True
    ),
    "content of two bytes each": Play(
        says_entry(b"f") + wire.frame(wire.Out.DATA, b"xy") * 600_000
    ),
    "names without end": Play(says_entry(b"same") * 1000, again=True),
    "long names without end": Play(says_entry(b"/".join([b"n" * 200] * 20)) * 100, again=True),
    "deep names without end": Play(says_entry(b"d/" * 127 + b"f") * 1000, again=True),
    "a name of 60 kB": Play(
        wire.frame(wire.Out.ENTRY, struct.pack("<BI", ord("f"), 0) + b"n" * 60_000 + b"\0\0")
    ),
    "a name of 1 MB": Play(
        head(wire.Out.ENTRY, 1 << 20) + struct.pack("<BI", ord("f"), 0) + b"n" * (1 << 20)
    ),
    "names that are nothing": Play(
        wire.frame(wire.Out.ENTRY, struct.pack("<BI", ord("f"), 0) + bytes(60_000)), again=True
    ),
    "descriptors without end": Play(
        head(wire.Out.OK, 64 << 10) + bytes(1000), one_by_one=True, again=True, passes=["null"]
    ),
    "many descriptors at once": Play(OK, passes=["null"] * 250),
    "descriptors of another kind": Play(OK, passes=["unix"]),
    "a socket that is not connected": Play(OK, passes=["idle"]),
    "a failure": Play(FAILED),
}


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileInit]:
    with hostile_init(tmp_path_factory.mktemp("liar")) as made:
        yield made


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.05)


class Watch:
    """What a block costs: its time, its memory at the worst, and how long it kept the loop."""

    async def __aenter__(self) -> "Watch":
        self._open = descriptors()
        self._started_s = time.monotonic()
        Path("/proc/self/clear_refs").write_text("5")
        self._held = self._peak()
        self.most_cpu_s = 0.0
        self.most_descriptors = 0
        self._ticking = asyncio.ensure_future(self._tick())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.sleep(0.01)  # the last tick tells of what was computed at the very end
        self._ticking.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticking
        self.took_s = time.monotonic() - self._started_s
        self.memory = self._peak() - self._held
        self.leaked = descriptors() - self._open

    async def _tick(self) -> None:
        # CPU time of this thread and not the clock: others may take the processor away.
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0.001)
            self.most_cpu_s = max(self.most_cpu_s, time.thread_time() - before_s)
            self.most_descriptors = max(self.most_descriptors, len(descriptors() - self._open))

    @staticmethod
    def _peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10


def descriptors() -> set[str]:
    # The one that lists is gone by the time that it is looked at.
    found = {entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    return {f"{entry.name} {entry.readlink()}" for entry in found}


async def outcome(call: Callable[[InitClient], Awaitable[Any]], path: str) -> object:
    """A result, or the typed error that stands for one. Anything else fails the test."""
    try:
        async with asyncio.timeout(DEADLINE_S + LATE_S):
            return await call(InitClient(path))
    except (SandboxError, FileNotFoundError) as exc:
        return exc


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", CALLS)
async def test_a_lie_costs_one_deadline_and_no_more(liar: HostileInit, name: str, lie: str) -> None:
    call, _ = CALLS[name]
    liar.plays(LIES[lie])
    async with Watch() as watch:
        ended = await outcome(call, liar.path)
    if lie.startswith(("never", "half")):
        assert type(ended) is SandboxLost
    assert watch.took_s < DEADLINE_S + LATE_S
    assert watch.memory < MOST_MEMORY
    assert watch.most_cpu_s < MOST_CPU_AT_ONCE_S
    assert watch.most_descriptors <= MOST_DESCRIPTORS
    assert watch.leaked == set()
    assert len(asyncio.all_tasks()) == 1


# ---------------------------------------------------------------- the truth, and parts of it


@pytest.mark.parametrize("name", CALLS)
async def test_the_truth_is_taken_whole_by_the_byte_and_before_any_afterthought(
    liar: HostileInit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is refused above is refused for what it is."""
    monkeypatch.setattr(sys.modules[__name__], "DEADLINE_S", HONEST_DEADLINE_S)
    call, truth = CALLS[name]
    for play in (
        truth,
        replace(truth, say=truth.say + FAILED * 10_000),
        *([] if truth.passes else [replace(truth, one_by_one=True)]),
    ):
        liar.plays(play)
        ended = await outcome(call, liar.path)
        assert not isinstance(ended, Exception), (play.say[:100], ended)


@pytest.mark.parametrize("stays", [True, False], ids=["stalls", "closes"])
@pytest.mark.parametrize("name", CALLS)
async def test_an_answer_cut_at_any_byte_is_a_lost_sandbox(
    liar: HostileInit, name: str, stays: bool
) -> None:
    call, truth = CALLS[name]
    cuts = [replace(truth, say=truth.say[:at], stays=stays) for at in range(len(truth.say))]
    liar.plays(*cuts)
    async with Watch() as watch:
        ended = await asyncio.gather(*(outcome(call, liar.path) for _ in cuts))
    assert {type(each) for each in ended} == {SandboxLost}
    assert watch.took_s < DEADLINE_S + LATE_S
    assert watch.leaked == set()


# ---------------------------------------------------------------- given time to do its worst


async def read_slowly(client: InitClient) -> None:
    """A process whose output nobody takes yet."""
    async with await client.start(["x"], timeout_s=1) as process:
        await asyncio.sleep(0.5)
        async for _ in process:
            pass


NAMES = "as many names as the limit allows, deep and one below the other"
UNTAKEN = "output in frames of two bytes that nobody takes"
WORST: dict[str, tuple[Callable[[InitClient], Awaitable[Any]], Play]] = {
    "4 MB of content in frames of two bytes": (
        lambda client: client.read_file("/f", limit_bytes=4 << 20, timeout_s=30),
        LIES["floods of tiny data"],
    ),
    "4 MB of output in frames of two bytes": (
        lambda client: client.exec(["x"], output_limit_bytes=4 << 20, timeout_s=30),
        LIES["floods of tiny stdout"],
    ),
    "4 MB of a tree in frames of two bytes": (
        lambda client: client.get_tree("/t", limit_bytes=4 << 20, timeout_s=30),
        Play(says_entry(b"f") + wire.frame(wire.Out.DATA, b"xy") * (3 << 20)),
    ),
    UNTAKEN: (
        read_slowly,
        Play(STARTED + wire.frame(wire.Out.STDOUT, b"xy") * 1_000_000),
    ),
    "as many long names as the limit allows": (
        lambda client: client.get_tree("/t", timeout_s=30),
        LIES["long names without end"],
    ),
    NAMES: (
        lambda client: client.get_tree("/t", timeout_s=30),
        Play(
            b"".join(says_entry(b"%05d/" % n + b"d/" * 120 + b"f") for n in range(99_999))
            + says_entry(b"00000/" + b"d/" * 120 + b"f/x")
            + OK
        ),
    ),
    "as many descriptors as there are bytes in a frame": (
        lambda client: client.listen(0, timeout_s=1),
        LIES["descriptors without end"],
    ),
}
WORST_MEMORY = {
    NAMES: 192 << 20,  # a hundred thousand of 250 bytes, as they came and as they are checked
    UNTAKEN: 24 << 20,
}


@pytest.mark.parametrize("name", WORST)
async def test_the_worst_that_limits_allow_is_bounded_too(liar: HostileInit, name: str) -> None:
    call, play = WORST[name]
    liar.plays(play)
    async with Watch() as watch, asyncio.timeout(60):
        with pytest.raises(SandboxError):
            await call(InitClient(liar.path))
    assert watch.memory < WORST_MEMORY.get(name, MOST_MEMORY)
    assert watch.most_cpu_s < MOST_CPU_AT_ONCE_S
    assert watch.most_descriptors <= MOST_DESCRIPTORS
    assert watch.leaked == set()


async def test_a_socket_that_leads_nowhere_is_no_connection(liar: HostileInit) -> None:
    liar.plays(LIES["a socket that is not connected"])
    with pytest.raises(SandboxError, match="not connected"):
        await InitClient(liar.path).connect(80, timeout_s=5)


@pytest.mark.parametrize("say", [b"", wire.frame(wire.Out.STARTED, bytes(4))])
async def test_a_start_waits_for_its_init_and_not_for_its_process(
    liar: HostileInit, monkeypatch: pytest.MonkeyPatch, say: bytes
) -> None:
    monkeypatch.setattr(process, "START_TIMEOUT_S", DEADLINE_S)
    liar.plays(Play(say))
    async with Watch() as watch, asyncio.timeout(30):
        with pytest.raises(SandboxError, match=r"no answer from its init|process number of 0"):
            await InitClient(liar.path).start(["x"], timeout_s=3600)
    assert watch.leaked == set()
