"""What every engine must do, part 4: processes to talk to, with pipes and with terminals."""

import asyncio
import signal

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Engine, Process, Sandbox
from rollout.types import Blueprint
from tests.sandbox.conftest import LACKING
from tests.sandbox.harness import Bench, Sh, exists, gone, lives

ECHO = ["sh", "-c", "while read line; do echo got $line; done; echo end"]


async def until(process: Process, wanted: bytes, *, stream: str = "stdout") -> bytes:
    """All it says on `stream`, up to and with the piece that completes `wanted`."""
    seen = b""
    async with asyncio.timeout(20):
        async for name, data in process:
            seen += data if name == stream else b""
            if wanted in seen:
                return seen
    raise AssertionError(f"it ended before {wanted!r}: {seen!r}")


# ---------------------------------------------------------------- talking


async def test_what_is_said_is_answered_while_it_runs(box: Sandbox) -> None:
    async with await box.start(ECHO) as process:
        assert process.pid > 1
        for word in (b"one", b"two", b"three"):
            await process.write_stdin(word + b"\n")
            assert await anext(process) == ("stdout", b"got %s\n" % word)
        await process.close_stdin()
        assert await anext(process) == ("stdout", b"end\n")
        assert (await process.wait()).exit_code == 0


async def test_output_comes_in_order_and_by_stream(box: Sandbox) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.02; echo err$i >&2; sleep 0.02; done"
    async with await box.start(["sh", "-c", script]) as process:
        pieces = [piece async for piece in process]
    assert pieces == [
        piece
        for n in range(1, 9)
        for piece in (("stdout", b"%d\n" % n), ("stderr", b"err%d\n" % n))
    ]


async def test_what_was_not_iterated_is_in_the_result(box: Sandbox) -> None:
    async with await box.start(["sh", "-c", "echo a; echo b >&2; exit 7"]) as process:
        result = await process.wait()
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"a\n", b"b\n")
        assert (result.timed_out, result.truncated) == (False, False)
        assert (await process.wait()).exit_code == 7


async def test_megabytes_go_through_both_ways(box: Sandbox) -> None:
    data = bytes(range(256)) * 4096 * 4
    async with await box.start(["cat"]) as process:

        async def feed() -> None:
            await process.write_stdin(data)
            await process.close_stdin()

        feeding = asyncio.ensure_future(feed())
        assert b"".join([piece async for _, piece in process]) == data
        await feeding
        assert (await process.wait()).exit_code == 0


async def test_stdin_of_a_process_that_has_ended_goes_nowhere(box: Sandbox) -> None:
    async with await box.start(["true"]) as process:
        assert (await process.wait()).exit_code == 0
        await process.write_stdin(b"x" * (1 << 20))
        await process.close_stdin()
        await process.signal(signal.SIGTERM)
        await process.resize(10, 10)


@pytest.mark.feature("users")
async def test_a_process_is_started_with_the_same_settings_as_an_exec(bench: Bench) -> None:
    box = await bench.sandbox(Blueprint(env=(("A", "spec"), ("B", "spec")), workdir="/usr"))
    script = ["sh", "-c", 'echo "$A $B $(pwd) $(id -un)"']
    async with await box.start(script, env={"B": "start"}) as process:
        assert (await process.wait()).stdout == b"spec start /usr root\n"
    async with await box.start(script, cwd="/tmp", user="nobody") as process:
        assert (await process.wait()).stdout == b"spec spec /tmp nobody\n"


async def test_what_cannot_be_started_is_said(box: Sandbox) -> None:
    async with await box.start(["no-such-program"]) as process:
        assert (await process.wait()).exit_code == 127
    for wrong in ({"cwd": "/no/such/folder"}, {"user": "no-such-user"}):
        with pytest.raises(SandboxError) as told:
            await box.start(["true"], **wrong)
        assert not isinstance(told.value, SandboxLost)
    with pytest.raises(SandboxError):
        await box.start([])


async def test_arguments_may_be_any_bytes(box: Sandbox) -> None:
    raw = bytes([0xFF, 0xFE, 0x80, 0x41])
    assert (await box.exec([b"printf", "%s", raw])).stdout == raw
    async with await box.start(["printf", b"%s", raw]) as process:
        assert (await process.wait()).stdout == raw


# ---------------------------------------------------------------- how it ends


async def test_the_end_is_that_of_the_process_not_of_its_children(box: Sandbox) -> None:
    async with await box.start(["sh", "-c", "sleep 60 & echo $!"]) as process:
        result = await process.wait()
    assert result.exit_code == 0
    assert await lives(box, result.stdout.decode().strip())


async def test_output_past_the_cap_is_dropped_and_flagged(box: Sandbox) -> None:
    script = ["sh", "-c", "head -c 500000 /dev/zero; echo err >&2; exit 9"]
    async with await box.start(script, output_limit_bytes=1000) as process:
        result = await process.wait()
    assert (len(result.stdout), result.stderr, result.truncated) == (1000, b"err\n", True)
    assert result.exit_code == 9


async def test_timeout_kills_the_whole_group(box: Sandbox) -> None:
    script = ["sh", "-c", "trap '' TERM; sleep 60 & echo $!; sleep 60"]
    async with await box.start(script, timeout_s=0.4) as process:
        result = await process.wait()
    assert (result.timed_out, result.exit_code) == (True, 137)
    assert await gone(box, result.stdout.decode().strip())


async def test_leaving_hangs_up_which_kills_the_whole_group(box: Sandbox) -> None:
    script = "trap '' HUP TERM; sleep 60 & echo $! > /tmp/child; echo $$ > /tmp/self; wait"
    async with await box.start(["sh", "-c", script]) as process:
        await exists(box, "/tmp/self")
    for name in ("/tmp/child", "/tmp/self"):
        assert await gone(box, (await box.read_file(name)).decode().strip())
    with pytest.raises(SandboxError, match="hung up") as told:
        await process.wait()
    assert not isinstance(told.value, SandboxLost)
    process.close()


async def test_hanging_up_wakes_whoever_waits(box: Sandbox) -> None:
    process = await box.start(["sleep", "60"])
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.sleep(0.1)
    process.close()
    with pytest.raises(SandboxError, match="hung up"):
        await waiting


async def test_a_closed_sandbox_ends_its_processes(box: Sandbox) -> None:
    async with await box.start(["sh", "-c", "echo up; sleep 60"]) as process:
        assert await anext(process) == ("stdout", b"up\n")
        await box.close()
        with pytest.raises(SandboxLost):
            await process.wait()
    with pytest.raises(SandboxLost):
        await box.start(["true"])


async def test_a_result_outlives_its_sandbox(box: Sandbox) -> None:
    async with await box.start(["echo", "kept"]) as process:
        await asyncio.sleep(0.5)
        await box.close()
        assert (await process.wait()).stdout == b"kept\n"


# ---------------------------------------------------------------- signals


async def test_signals_reach_the_whole_group(box: Sandbox) -> None:
    script = "trap 'echo caught; exit 9' INT; sleep 60 & echo $!; while :; do sleep 0.05; done"
    async with await box.start(["sh", "-c", script]) as process:
        child = (await until(process, b"\n")).decode().strip()
        await process.signal(signal.SIGINT)
        result = await process.wait()
    assert (result.exit_code, result.stdout) == (9, b"caught\n")
    # A shell's background child ignores SIGINT where there is no job control, but not SIGTERM.
    async with await box.start(["sh", "-c", "sleep 60 & echo $!; wait"]) as process:
        child = (await until(process, b"\n")).decode().strip()
        await process.signal(signal.SIGTERM)
        assert (await process.wait()).exit_code == 128 + signal.SIGTERM
    assert await gone(box, child)


@pytest.mark.parametrize("how", ["signal", "close"])
async def test_input_that_nobody_reads_holds_no_signal_up(box: Sandbox, how: str) -> None:
    async with await box.start(["sh", "-c", "echo up; exec sleep 60"]) as process:
        assert await anext(process) == ("stdout", b"up\n")
        feeding = asyncio.ensure_future(process.write_stdin(b"x" * (2 << 20)))
        await asyncio.sleep(0.3)
        assert not feeding.done()
        if how == "signal":
            await process.signal(signal.SIGTERM)
            assert (await process.wait()).exit_code == 128 + signal.SIGTERM
        else:
            process.close()
            assert await gone(box, str(process.pid))
        async with asyncio.timeout(20):
            await feeding


@pytest.mark.parametrize("number", [-1, 0, 65, 1 << 40])
async def test_what_is_no_signal_is_refused(box: Sandbox, number: int) -> None:
    async with await box.start(ECHO) as process:
        with pytest.raises(SandboxError, match="no signal"):
            await process.signal(number)
        await process.write_stdin(b"still here\n")
        assert await anext(process) == ("stdout", b"got still here\n")


# ---------------------------------------------------------------- many at once


async def test_output_waits_until_it_is_taken(box: Sandbox) -> None:
    script = "head -c 20000000 /dev/zero; echo > /tmp/written"
    async with await box.start(["sh", "-c", script]) as process:
        await asyncio.sleep(0.5)
        with pytest.raises(FileNotFoundError):
            await box.read_file("/tmp/written")
        assert sum([len(data) async for _, data in process]) == 20_000_000
        assert (await process.wait()).exit_code == 0


async def test_a_slow_reader_holds_up_none_of_two_hundred(box: Sandbox, sh: Sh) -> None:
    async with await box.start(["yes"]) as slow:
        await anext(slow)

        async def one(number: int) -> bytes:
            script = "read word; seq 3000; echo $word"
            async with await box.start(["sh", "-c", script]) as process:
                await process.write_stdin(b"%d\n" % number)
                return (await process.wait()).stdout

        numbers = b"".join(b"%d\n" % n for n in range(1, 3001))
        said = await asyncio.gather(*(one(number) for number in range(200)))
        assert said == [numbers + b"%d\n" % number for number in range(200)]
        assert (await sh("echo usable")).stdout == b"usable\n"
        assert (await anext(slow))[1][:2] in (b"y\n", b"\ny")


# ---------------------------------------------------------------- terminals


async def test_an_engine_has_the_features_it_names(engine: Engine, kind: str) -> None:
    known = {"pty", "ports", "programs", "users", "states", "dockerfile"}
    assert engine.features == known - LACKING[kind]


async def test_without_the_feature_a_terminal_is_refused(engine: Engine, box: Sandbox) -> None:
    if "pty" in engine.features:
        async with await box.start(["true"], pty=True) as process:
            assert (await process.wait()).exit_code == 0
        return
    with pytest.raises(SandboxError, match="terminal"):
        await box.start(["true"], pty=True)


@pytest.mark.feature("pty")
async def test_a_terminal_is_one_and_has_a_size(box: Sandbox) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && tty; stty size; echo wrong >&2"
    async with await box.start(["sh", "-c", script], pty=True, rows=40, cols=132) as process:
        result = await process.wait()
    assert (result.exit_code, result.stderr) == (0, b"")
    assert result.stdout == b"/dev/pts/0\r\n40 132\r\nwrong\r\n"
    async with await box.start(["stty", "size"], pty=True) as process:
        assert (await process.wait()).stdout == b"24 80\r\n"
    async with await box.start(["sh", "-c", "test -t 0 || test -t 1"]) as process:
        assert (await process.wait()).exit_code == 1


@pytest.mark.feature("pty")
async def test_a_new_size_is_seen_and_signalled(box: Sandbox) -> None:
    script = "trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.05; done"
    async with await box.start(["sh", "-c", script], pty=True) as process:
        await until(process, b"up")
        await process.resize(50, 61)
        result = await process.wait()
    assert (result.exit_code, result.stdout.split()) == (4, [b"50", b"61"])


@pytest.mark.feature("pty")
@pytest.mark.parametrize("size", [(-1, 10), (10, 1 << 16)])
async def test_what_is_no_size_is_refused(box: Sandbox, size: tuple[int, int]) -> None:
    async with await box.start(["cat"], pty=True) as process:
        with pytest.raises(SandboxError, match="characters"):
            await process.resize(*size)
        await process.write_stdin(b"still here\n")
        await until(process, b"still here")


@pytest.mark.feature("pty")
async def test_control_c_interrupts_what_is_in_the_foreground(box: Sandbox) -> None:
    async with await box.start(["sh", "-i"], pty=True, env={"PS1": "> "}) as process:
        await until(process, b"> ")
        await process.write_stdin(b"sleep 60 && echo sl''ept\n")
        await asyncio.sleep(0.3)
        await process.write_stdin(b"\x03")
        await process.write_stdin(b"echo al''ive\n")
        assert b"slept" not in await until(process, b"alive")
        await process.write_stdin(b"exit 5\n")
        assert (await process.wait()).exit_code == 5


@pytest.mark.feature("pty")
@pytest.mark.parametrize("how", ["byte", "end of input"])
async def test_control_d_ends_the_input(box: Sandbox, how: str) -> None:
    async with await box.start(["cat"], pty=True) as process:
        await process.write_stdin(b"line\n")
        assert (await until(process, b"line\r\nline\r\n")).count(b"line") == 2
        if how == "byte":
            await process.write_stdin(b"\x04")
        else:
            await process.close_stdin()
        assert (await process.wait()).exit_code == 0


@pytest.mark.feature("pty")
async def test_hanging_up_a_terminal_kills_what_runs_there(box: Sandbox) -> None:
    script = "trap '' HUP TERM; sleep 60 & echo $!; wait"
    async with await box.start(["sh", "-c", script], pty=True) as process:
        child = (await until(process, b"\n")).decode().strip()
    assert await gone(box, child)


@pytest.mark.feature("pty")
@pytest.mark.feature("users")
async def test_an_ordinary_user_owns_his_terminal(box: Sandbox) -> None:
    script = "stat -c %U $(tty); echo by name > $(tty)"
    async with await box.start(["sh", "-c", script], pty=True, user="user") as process:
        assert (await process.wait()).stdout == b"user\r\nby name\r\n"
