"""Processes to talk to: stdin, signals, terminals, back-pressure."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.errors import SandboxError
from rollout.sandbox import wire
from tests.sandbox.init_box import Box, running_init, until

pytestmark = pytest.mark.native


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path) as made:
        yield made


async def test_talking_to_a_process(box: Box) -> None:
    async with await box.client.start(
        ["sh", "-c", "while read l; do echo got $l; done"]
    ) as process:
        assert process.pid > 1
        await process.write_stdin(b"one\n")
        assert await anext(process) == ("stdout", b"got one\n")
        await process.write_stdin(b"two\n")
        assert await anext(process) == ("stdout", b"got two\n")
        await process.close_stdin()
        assert (await process.wait()).exit_code == 0


async def test_start_says_at_once_what_is_missing(box: Box) -> None:
    with pytest.raises(SandboxError, match="/no/where"):
        await box.client.start(["true"], cwd="/no/where")
    async with await box.client.start(["no-such-program"]) as process:
        assert (await process.wait()).exit_code == 127


async def test_signals_reach_the_group(box: Box) -> None:
    script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.05; done"
    async with await box.client.start(["sh", "-c", script]) as process:
        assert await anext(process) == ("stdout", b"up\n")
        await process.signal(signal.SIGINT)
        ended = await process.wait()
    assert ended.exit_code == 9
    assert ended.stdout == b"caught\n"


async def test_signals_reach_only_what_the_host_started_and_still_runs(box: Box) -> None:
    async with await box.client.start(["sh", "-c", "setsid sleep 69 & echo $!; cat"]) as process:
        child = int((await anext(process))[1])
        await until(lambda: box.runs("sleep"))
        for pid in (child, 2_000_000):
            with box.raw() as sock:
                sock.sendall(wire.signal_request(pid, signal.SIGKILL))
                assert sock.recv(100) == wire.frame(wire.Out.OK)
        assert await box.runs("sleep")
        await process.signal(signal.SIGKILL)
        assert (await process.wait()).exit_code == 137
    assert await box.runs("sleep")
    with box.raw() as sock:
        sock.sendall(wire.signal_request(process.pid, signal.SIGKILL))
        assert sock.recv(100) == wire.frame(wire.Out.OK)
    assert await box.runs("sleep")


async def test_a_terminal_with_its_size(box: Box) -> None:
    async with await box.client.start(["sh"], pty=True, rows=40, cols=132) as process:
        await process.write_stdin(b"stty size; tty; test -t 0 && test -t 2 && echo term''inal\n")
        seen = b""
        while b"terminal" not in seen:
            seen += (await anext(process))[1]
        assert b"40 132" in seen
        assert b"/dev/pts/" in seen
        await process.resize(50, 60)
        await process.write_stdin(b"stty size; exit 3\n")
        ended = await process.wait()
    assert ended.exit_code == 3
    assert b"50 60" in ended.stdout


async def test_the_end_of_input_and_of_output_on_a_terminal(box: Box) -> None:
    async with await box.client.start(["cat"], pty=True) as process:
        await process.write_stdin(b"line\n")
        await process.close_stdin()
        assert (await process.wait()).exit_code == 0
    async with await box.client.start(["seq", "20000"], pty=True) as process:
        ended = await process.wait()
    assert ended.stdout.split() == [b"%d" % n for n in range(1, 20_001)]


async def test_leaving_a_process_kills_it(box: Box) -> None:
    async with await box.client.start(["sh", "-c", "sleep 69 & wait"]):
        await until(lambda: box.runs("sleep"))
    await until(lambda: box.gone("sleep"))


async def test_output_waits_until_it_is_taken(box: Box) -> None:
    mark = box.folder / "mark"
    script = f"head -c 20000000 /dev/zero; touch {mark}"
    async with await box.client.start(["sh", "-c", script]) as process:
        await asyncio.sleep(0.3)
        assert not mark.exists()
        size = 0
        async for stream, data in process:
            assert stream == "stdout"
            size += len(data)
        assert (await process.wait()).exit_code == 0
    assert size == 20_000_000
    assert mark.exists()


async def test_the_end_of_input_waits_like_input_until_a_terminal_has_room(box: Box) -> None:
    ends = 200_000
    script = f"stty raw -echo; echo up; sleep 0.5; head -c {ends} | wc -c"
    async with await box.client.start(["sh", "-c", script], pty=True, timeout_s=20) as process:
        assert b"up" in (await anext(process))[1]
        for _ in range(ends):
            await process.close_stdin()
        assert int((await process.wait()).stdout) == ends


async def test_two_hundred_at_once_beside_one_that_nobody_reads(box: Box) -> None:
    async with await box.client.start(["yes"]) as unread:
        results = await asyncio.gather(*(box.sh(f"sleep 0.1; echo {n}") for n in range(200)))
        assert [text for _, text in results] == [f"{n}\n" for n in range(200)]
        assert (await anext(unread))[1].startswith(b"y\ny\n")


TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
seized = libc.ptrace(0x4206, int(sys.argv[1]), 0, 0)
print(seized, flush=True)
time.sleep(1000)
"""


async def test_a_tracer_that_lets_nobody_go_does_not_hold_up_an_end(box: Box) -> None:
    """Whoever is traced is its tracer's to bury: its parent would wait for ever."""
    async with await box.client.start(["sleep", "60"], timeout_s=2) as traced:
        tracer = await box.client.start([sys.executable, "-c", TRACER, str(traced.pid)])
        async with tracer:
            assert await anext(tracer) == ("stdout", b"0\n")
            ended = await traced.wait()
            assert (ended.exit_code, ended.timed_out) == (137, True)
            assert await box.sh("echo usable") == (0, "usable\n")
    await box.client.kill_all()
