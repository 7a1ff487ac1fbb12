"""Connections kept from one exec to the next: reused, bounded, and never believed."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox import wire
from rollout.sandbox.client import InitClient
from rollout.sandbox.connections import Connections
from tests.sandbox.hostile_init import HostileInit, Play, hostile_init
from tests.sandbox.init_box import Box, running_init, until

EXIT = wire.frame(wire.Out.EXIT, struct.pack("<iI", 0, 0))
OUTPUT = wire.frame(wire.Out.STDOUT, b"out")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path) as made:
        yield made


@pytest.fixture
async def kept() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    connections.close()


@pytest.fixture
def client(box: Box, kept: Connections) -> InitClient:
    return InitClient(box.socket, kept)


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[HostileInit]:
    with hostile_init(tmp_path) as made:
        yield made


async def peers(box: Box) -> int:
    """Connections that the init itself holds, less the one that asks."""
    _, listing = await box.sh("ls -l /proc/1/fd")
    return listing.count("socket:") - 2  # it listens, and this call has one


class TestWhatIsKept:
    async def test_execs_after_one_another_use_one_connection(
        self, box: Box, client: InitClient, kept: Connections
    ) -> None:
        for number in range(20):
            result = await client.exec(["sh", "-c", f"echo {number}; exit {number}"])
            assert (result.stdout, result.exit_code) == (f"{number}\n".encode(), number)
            assert len(kept) == 1
        assert await peers(box) == 1

    async def test_execs_at_once_have_one_each_and_leave_one(
        self, box: Box, client: InitClient, kept: Connections
    ) -> None:
        results = await asyncio.gather(
            *(client.exec(["sh", "-c", f"sleep 0.1; echo {n}"]) for n in range(20))
        )
        assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(20)]
        assert len(kept) == 1
        assert await peers(box) == 1

    @pytest.mark.parametrize(
        ("argv", "code"), [(["/none"], 127), (["/etc"], 126), (["sh", "-c", "kill -9 $$"], 137)]
    )
    async def test_any_end_of_a_process_leaves_it_fit(
        self, client: InitClient, kept: Connections, argv: list[str], code: int
    ) -> None:
        for _ in range(3):
            assert (await client.exec(argv)).exit_code == code
            assert len(kept) == 1
            assert (await client.exec(["echo", "next"])).stdout == b"next\n"

    async def test_one_whose_exec_was_refused_or_had_stdin_is_hung_up(
        self, box: Box, client: InitClient, kept: Connections
    ) -> None:
        with pytest.raises(SandboxError, match="nobody-here"):
            await client.exec(["true"], user="nobody-here")
        assert (await client.exec(["cat"], stdin=b"in")).stdout == b"in"
        assert len(kept) == 0
        assert await peers(box) == 0

    async def test_cancelled_it_is_hung_up_and_its_process_killed(
        self, box: Box, client: InitClient, kept: Connections
    ) -> None:
        await client.exec(["true"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.exec(["sleep", "1000"])
        assert len(kept) == 0
        await until(lambda: box.gone("sleep"))
        assert (await client.exec(["echo", "next"])).stdout == b"next\n"

    async def test_what_a_background_child_says_later_reaches_no_later_exec(
        self, client: InitClient
    ) -> None:
        started = await client.exec(["sh", "-c", "(sleep 0.1; echo late) & echo early"])
        assert started.stdout == b"early\n"
        later = await client.exec(["sh", "-c", "sleep 0.3; echo later"])
        assert (later.stdout, later.stderr) == (b"later\n", b"")

    async def test_a_timeout_counts_for_its_own_exec_alone(self, client: InitClient) -> None:
        for _ in range(2):
            assert (await client.exec(["sleep", "1000"], timeout_s=0.1)).timed_out
            assert not (await client.exec(["sleep", "0.2"], timeout_s=30)).timed_out

    async def test_an_output_limit_counts_for_its_own_exec_alone(self, client: InitClient) -> None:
        for _ in range(2):
            short = await client.exec(["seq", "1000"], output_limit_bytes=10)
            assert (len(short.stdout), short.truncated) == (10, True)
            whole = await client.exec(["seq", "1000"])
            assert (len(whole.stdout.split()), whole.truncated) == (1000, False)

    async def test_no_more_than_so_many_the_longest_idle_goes(
        self, tmp_path: Path, box: Box
    ) -> None:
        kept = Connections(most=2)
        others = []
        for name in ("b", "c"):
            (tmp_path / name).symlink_to(box.socket)
            others.append(InitClient(str(tmp_path / name), kept))
        first = InitClient(box.socket, kept)
        for client in (first, *others):
            await client.exec(["true"])
        assert len(kept) == 2
        assert kept.take(box.socket) is None
        assert await peers(box) == 2
        kept.close()
        assert await peers(box) == 0

    async def test_it_goes_with_its_init(
        self, box: Box, client: InitClient, kept: Connections
    ) -> None:
        await client.exec(["true"])
        os.kill(box.pid, signal.SIGKILL)
        await until(lambda: asyncio.sleep(0, result=len(kept) == 0))
        with pytest.raises(SandboxLost):
            await client.exec(["true"])


class TestTheWire:
    """What the client never does."""

    def exchange(self, box: Box, *sent: bytes) -> bytes:
        """Everything the init answers to `sent`, all in one piece, until it hangs up."""
        with box.raw() as sock:
            sock.sendall(b"".join(sent))
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
        return answer

    def request(self, flags: int) -> bytes:
        return wire.exec_request(["sh", "-c", "sleep 0.1; echo x"], env={}, flags=flags)

    def test_without_keep_a_connection_ends_with_its_exec(self, box: Box) -> None:
        assert self.exchange(box, self.request(0)).endswith(EXIT)

    @pytest.mark.parametrize("other", [wire.ExecFlag.STDIN, wire.ExecFlag.PTY])
    def test_with_input_or_a_terminal_it_is_not_kept(self, box: Box, other: int) -> None:
        answer = self.exchange(
            box, self.request(wire.ExecFlag.KEEP | other), wire.frame(wire.In.STDIN_EOF)
        )
        assert answer.endswith(EXIT)

    def test_a_request_before_the_end_of_the_last_breaks_the_rules(self, box: Box) -> None:
        twice = self.request(wire.ExecFlag.KEEP)
        assert EXIT not in self.exchange(box, twice, twice)

    def test_half_a_frame_beside_a_request_is_no_part_of_the_next(self, box: Box) -> None:
        answer = self.exchange(box, self.request(wire.ExecFlag.KEEP), b"\x01\x00")
        assert answer.endswith(EXIT)

    def test_it_takes_any_request_after_its_execs(self, box: Box) -> None:
        with box.raw() as sock:
            for _ in range(3):
                sock.sendall(self.request(wire.ExecFlag.KEEP))
                answer = b""
                while not answer.endswith(EXIT):
                    answer += sock.recv(4096)
            sock.sendall(wire.plain_request(wire.Op.PING))
            assert sock.recv(4096) == wire.frame(wire.Out.OK)
            assert sock.recv(4096) == b""


class TestHostile:
    async def test_what_it_says_beyond_the_end_ends_it(
        self, liar: HostileInit, kept: Connections
    ) -> None:
        for more in (OUTPUT, EXIT, b"\0"):
            liar.plays(Play(EXIT + more))
            await InitClient(liar.path, kept).exec(["x"])
            assert len(kept) == 0

    async def test_what_it_says_unasked_ends_it_and_is_no_answer(
        self, liar: HostileInit, kept: Connections
    ) -> None:
        client = InitClient(liar.path, kept)
        liar.plays(Play(EXIT, stays=False), Play(OUTPUT + EXIT))
        await client.exec(["x"])
        await until(lambda: asyncio.sleep(0, result=len(kept) == 0))
        assert (await client.exec(["x"])).stdout == b"out"
