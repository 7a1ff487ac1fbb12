"""The codec against arbitrary bytes, and the client against an init that lies, stalls or dies."""

import asyncio
import contextlib
import re
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import SandboxError, SandboxLost, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.client import InitClient
from rollout.sandbox.trees import TreeReader

payloads = st.binary(max_size=2000)
frames = st.lists(st.tuples(st.sampled_from(wire.Out), payloads), max_size=20)
names = st.binary(min_size=1, max_size=200).filter(lambda name: b"\0" not in name)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)

# ---------------------------------------------------------------- the codec


@given(frames, st.lists(st.integers(1, 500), min_size=1))
def test_frames_round_trip_however_they_are_cut(
    sent: list[tuple[wire.Out, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in sent)
    decoder = wire.Decoder()
    seen: list[tuple[int, bytes]] = []
    while stream:
        piece, stream = stream[: cuts[0]], stream[cuts[0] :]
        cuts = cuts[1:] + cuts[:1]
        seen += decoder.feed(piece)
    assert seen == sent
    assert decoder.held_bytes == 0


@given(st.lists(st.binary(max_size=300_000), max_size=10))
def test_any_bytes_give_frames_or_a_typed_error_and_stay_bounded(pieces: list[bytes]) -> None:
    decoder = wire.Decoder()
    try:
        for piece in pieces:
            for _, payload in decoder.feed(piece):
                assert len(payload) <= wire.MAX_PAYLOAD_BYTES
            assert decoder.held_bytes < wire.MAX_PAYLOAD_BYTES + 5
    except SandboxError:
        pass


@given(st.integers(wire.MAX_PAYLOAD_BYTES + 1, (1 << 32) - 1), st.integers(0, 255))
def test_a_frame_too_large_is_refused_at_its_head(length: int, kind: int) -> None:
    with pytest.raises(SandboxError, match=f"a frame of {length} bytes"):
        wire.Decoder().feed(struct.pack("<BI", kind, length))


def test_the_largest_frame_fits() -> None:
    payload = bytes(wire.MAX_PAYLOAD_BYTES)
    assert wire.Decoder().feed(wire.frame(wire.Out.DATA, payload)) == [(wire.Out.DATA, payload)]
    with pytest.raises(SandboxError, match="65537 bytes"):
        wire.frame(wire.In.DATA, payload + b"x")


@given(st.binary(max_size=60))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [
        wire.read_exit,
        wire.read_failure,
        wire.read_started,
        wire.read_entry,
    ]
    for read in readers:
        with contextlib.suppress(SandboxError):
            read(payload)


near_frames = st.one_of(
    st.tuples(st.integers(0, 255), st.binary(max_size=400)).map(
        lambda frame: struct.pack("<BI", frame[0], len(frame[1])) + frame[1]
    ),
    st.tuples(st.integers(0, 255), st.integers(0, (1 << 32) - 1)).map(
        lambda head: struct.pack("<BI", *head)
    ),
    st.binary(max_size=20),
)


def decoded(pieces: Iterable[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    """Frames up to the end or to the first error, and that error."""
    decoder, found = wire.Decoder(), []
    for piece in pieces:
        try:
            found += decoder.feed(piece)
        except SandboxError as exc:
            return found, str(exc)
        assert decoder.held_bytes < wire.MAX_PAYLOAD_BYTES + 5
    return found, ""


@given(st.lists(near_frames, max_size=30).map(b"".join), st.data())
def test_any_stream_means_the_same_wherever_it_is_cut(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    edges = [0, *cuts, len(stream)]
    frames, error = decoded(stream[start:end] for start, end in pairwise(edges))
    by_byte, byte_error = decoded(bytes([byte]) for byte in stream)
    assert (frames, error) == (by_byte[: len(frames)], byte_error)
    # A piece that holds an error gives none of the frames before it; nothing else is lost.
    assert error or frames == by_byte


def mutated(payload: bytes) -> st.SearchStrategy[bytes]:
    """The payload with some of it replaced, left out or put in."""
    spot = st.tuples(st.integers(0, len(payload)), st.integers(0, 6), st.binary(max_size=6))
    return spot.map(lambda s: payload[: s[0]] + s[2] + payload[s[0] + s[1] :])


EVERY_READER: list[tuple[Callable[[bytes], object], bytes]] = [
    (wire.read_exit, struct.pack("<iI", 137, 5)),
    (wire.read_failure, struct.pack("<I", 2) + "no such f\u00efle".encode()),
    (wire.read_started, struct.pack("<I", 12)),
    (wire.read_entry, wire.entry(wire.EntryHead("link", 0o777, b"a/b", b"../c"))[5:]),
]


@given(st.data())
@pytest.mark.parametrize(("read", "payload"), EVERY_READER)
def test_what_is_nearly_right_is_read_or_refused(
    read: Callable[[bytes], object], payload: bytes, data: st.DataObject
) -> None:
    with contextlib.suppress(SandboxError):
        read(data.draw(mutated(payload)))


@pytest.mark.parametrize(("read", "payload"), EVERY_READER)
def test_a_payload_as_large_as_a_frame_costs_little(
    read: Callable[[bytes], object], payload: bytes
) -> None:
    for filler in (b"\0", b"/", b"\xff", b"x"):
        large = payload + filler * (wire.MAX_PAYLOAD_BYTES - len(payload))
        tracemalloc.start()
        with contextlib.suppress(SandboxError):
            read(large)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * wire.MAX_PAYLOAD_BYTES


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([*wire.KINDS]), st.binary(max_size=30), st.binary(max_size=30)
            ),
            st.binary(max_size=50),
        ),
        max_size=30,
    )
)
def test_any_tree_is_taken_or_refused(told: list[Any]) -> None:
    reader = TreeReader(limit_bytes=200, limit_entries=20)
    with contextlib.suppress(SandboxError):
        for each in told:
            if isinstance(each, bytes):
                reader.data(each)
            else:
                kind, path, target = each
                reader.entry(wire.EntryHead(kind, 0o644, path, target))
        tree = reader.tree()
        assert len(tree.entries) <= 20
        assert tree.size_bytes <= 200
        for entry in tree.entries:
            assert not {"", ".", ".."} & set(entry.path.split("/"))


@given(st.integers(), st.integers(), st.integers(), st.text(max_size=9), st.text(max_size=9))
def test_what_the_host_asks_for_travels_or_is_refused(
    one: int, two: int, three: int, text: str, other: str
) -> None:
    asking: list[Callable[[], bytes]] = [
        lambda: wire.exec_request([text, other], env={text: other}, cwd=text, user=other),
        lambda: wire.exec_request(["x"], env={}, timeout_ms=one, output_limit_bytes=two),
        lambda: wire.exec_request(["x"], env={}, rows=one, cols=two),
        lambda: wire.file_request(
            wire.Op.PACK_TREE, f"/{text}", mode=one, limit_bytes=two, limit_entries=three
        ),
        lambda: wire.port_request(wire.Op.LISTEN, one),
        lambda: wire.resize(one, two),
        lambda: wire.signal_request(one, two),
        lambda: wire.entry(wire.EntryHead("file", one, text.encode("utf-8", "replace"), b"")),
    ]
    for ask in asking:
        with contextlib.suppress(SandboxError):
            assert ask()


@given(st.sampled_from(sorted(wire.KINDS)), st.integers(0, 0o7777), names, st.binary(max_size=99))
def test_entries_round_trip(kind: str, mode: int, path: bytes, target: bytes) -> None:
    head = wire.EntryHead(kind, mode, path, target.replace(b"\0", b""))
    ((_, payload),) = wire.Decoder().feed(wire.entry(head, wire.Out.ENTRY))
    assert wire.read_entry(payload) == head


@given(st.binary(max_size=300_000))
def test_data_is_cut_into_frames_that_fit(data: bytes) -> None:
    decoder = wire.Decoder()
    found = [pair for piece in wire.frames(wire.In.DATA, data) for pair in decoder.feed(piece)]
    assert b"".join(payload for _, payload in found) == data
    assert all(kind == wire.In.DATA and payload for kind, payload in found)


@given(st.lists(names, min_size=1, max_size=9), st.dictionaries(texts, texts))
def test_requests_hold_what_was_asked(argv: list[bytes], env: dict[str, str]) -> None:
    request = wire.exec_request(argv, env=env, cwd="/w", user="u", timeout_ms=7)
    length, version, op, _, timeout_ms = struct.unpack_from("<IBBHI", request)
    assert (length, version, op, timeout_ms) == (len(request) - 4, 1, wire.Op.EXEC, 7)
    argc, envc = struct.unpack_from("<II", request, 24)
    strings = request[32:-1].split(b"\0")
    assert (argc, envc) == (len(argv), len(env))
    assert strings[: 2 + argc] == [b"/w", b"u", *argv]
    assert len(strings) == 2 + argc + envc


def test_both_halves_of_the_wire_agree() -> None:
    header = Path(wire.__file__).parent / "init" / "wire.h"
    defined = {
        name: int(number)
        for name, number in re.findall(r"^\t(\w+) = (\d+),", header.read_text(), re.M)
    }
    for prefix, numbers in {"OP_": wire.Op, "IN_": wire.In, "OUT_": wire.Out}.items():
        theirs = {word: number for word, number in defined.items() if word.startswith(prefix)}
        assert theirs == {prefix + member.name: member.value for member in numbers}


# ---------------------------------------------------------------- a hostile init

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def lying(folder: Path, answer: Answer) -> AsyncIterator[InitClient]:
    """An init that answers every connection with `answer`."""
    path = str(folder / "s")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield InitClient(path)


def says(*frames: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        for frame in frames:
            writer.write(frame)
            await writer.drain()

    return answer


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


def floods(frame: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(frame)
            await writer.drain()

    return answer


EXIT = wire.frame(wire.Out.EXIT, struct.pack("<iI", 0, 0))
HUGE = struct.pack("<BI", wire.Out.STDOUT, 0xFFFFFFFF)
OUTPUT = wire.frame(wire.Out.STDOUT, bytes(1000))
DATA = wire.frame(wire.Out.DATA, bytes(1000))


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (says(HUGE), SandboxError, "frame of 4294967295 bytes"),
        (says(OUTPUT), SandboxLost, "hung up"),
        (says(OUTPUT, EXIT[:-1]), SandboxLost, "hung up"),
        (says(), SandboxLost, "hung up|reset"),
        (says(wire.frame(wire.Out.EXIT, b"x")), SandboxError, "malformed exit"),
        (says(wire.frame(wire.Out.EXIT, struct.pack("<iI", -9, 0))), SandboxError, "code of -9"),
        (says(wire.frame(wire.Out.ERROR, b"x")), SandboxError, "malformed error"),
        (says(wire.frame(wire.Out.OK)), SandboxError, "unexpected frame: type 39"),
        (says(wire.frame(wire.Out.DATA, b"x")), SandboxError, "unexpected frame: type 37"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), SandboxError, "frame of"),
        (floods(OUTPUT), SandboxError, "more output than the 5000 bytes"),
        (floods(wire.frame(wire.Out.STDOUT)), SandboxError, "unexpected frame: type 33, 0 bytes"),
        (says_nothing, SandboxLost, "no answer"),
        (floods(wire.frame(wire.Out.STARTED, bytes(4))), SandboxError, "unexpected frame"),
    ],
)
async def test_exec_meets_a_lie_with_a_typed_error(
    tmp_path: Path, answer: Answer, error: type[SandboxError], reason: str
) -> None:
    async with lying(tmp_path, answer) as client:
        started = time.monotonic()
        with pytest.raises(SandboxError, match=reason) as caught:
            await client.exec(["true"], timeout_s=0.1, output_limit_bytes=5000)
        assert type(caught.value) is error
        assert "exec 'true'" in str(caught.value)
        assert time.monotonic() - started < 30


async def _read(client: InitClient) -> Any:
    return await client.read_file("/f", limit_bytes=5000, timeout_s=1)


async def _get(client: InitClient) -> Any:
    return await client.get_tree("/t", limit_bytes=5000, limit_entries=50, timeout_s=1)


async def _start(client: InitClient) -> Any:
    async with await client.start(["x"], timeout_s=0.1, output_limit_bytes=5000) as process:
        return await process.wait()


def entry(path: bytes, kind: str = "file", target: bytes = b"") -> bytes:
    return wire.entry(wire.EntryHead(kind, 0o644, path, target), wire.Out.ENTRY)


@pytest.mark.parametrize(
    ("call", "answer", "error", "reason"),
    [
        (_read, floods(DATA), SandboxError, "more than the 5000 bytes"),
        (_read, floods(OUTPUT), SandboxError, "unexpected"),
        (_read, says_nothing, SandboxLost, "no answer"),
        (_get, floods(DATA), TreeRefused, "belongs to no file"),
        (_get, floods(entry(b"x")), TreeRefused, "more than 50 names"),
        (_get, says(entry(b"f"), *[DATA] * 6), TreeRefused, "more than 5000 bytes"),
        (_get, says(entry(b"d", "dir"), DATA), TreeRefused, "belongs to no file"),
        (_get, says(wire.frame(wire.Out.ENTRY, b"zzzzzzzz")), SandboxError, "malformed entry"),
        (_get, says(wire.frame(wire.Out.ENTRY, b"z\0\0\0\0a\0\0")), SandboxError, "of kind 122"),
        (_get, says(entry(b"/abs"), wire.frame(wire.Out.OK)), TreeRefused, "absolute"),
        (_get, says(entry(b"a/../b"), wire.frame(wire.Out.OK)), TreeRefused, "no plain"),
        (_get, says(entry(b"x", "other")), TreeRefused, "device"),
        (_start, says(), SandboxLost, "hung up|reset"),
        (_start, says_nothing, SandboxLost, "no answer"),
        (_start, says(EXIT), SandboxError, "ended before it was started"),
        (_start, floods(OUTPUT), SandboxError, "more output|before"),
        (lambda client: client.ping(1), floods(OUTPUT), SandboxError, "unexpected"),
        (lambda client: client.kill_all(timeout_s=1), says_nothing, SandboxLost, "no answer"),
        (
            lambda client: client.write_file("/f", bytes(9_000_000), timeout_s=1),
            says(wire.frame(wire.Out.ERROR, struct.pack("<I", 28) + b"full")),
            SandboxError,
            "full",
        ),
        (
            lambda client: client.exec(["x"], stdin=bytes(9_000_000), timeout_s=0.1),
            says(),
            SandboxLost,
            "hung up|reset",
        ),
    ],
)
async def test_every_call_meets_a_lie_with_a_typed_error(
    tmp_path: Path,
    call: Callable[[InitClient], Awaitable[Any]],
    answer: Answer,
    error: type[SandboxError],
    reason: str,
) -> None:
    async with lying(tmp_path, answer) as client, asyncio.timeout(30):
        with pytest.raises(SandboxError, match=reason) as caught:
            await call(client)
        assert type(caught.value) is error


@given(stream=st.binary(max_size=3000))
def test_any_stream_ends_every_call_with_a_result_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, stream: bytes
) -> None:
    async def calls() -> None:
        async with lying(tmp_path_factory.mktemp("s"), says(stream)) as client:
            for call in (_read, _get, _start):
                try:
                    await call(client)
                except (SandboxError, FileNotFoundError):
                    continue

    asyncio.run(calls())


async def test_nobody_at_the_socket_is_a_lost_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxLost, match="no init at"):
        await InitClient(str(tmp_path / "none")).ping()


async def test_a_socket_path_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    (tmp_path / "short").symlink_to(deep)
    async with lying(tmp_path / "short", says(wire.frame(wire.Out.OK))):
        await InitClient(str(deep / "s")).ping()
