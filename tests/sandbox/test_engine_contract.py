"""What every engine must do, part 1: processes. Files and lives are in the files beside this."""

import asyncio
import time

import pytest

from rollout.errors import SandboxError
from rollout.sandbox.base import Sandbox
from rollout.types import Blueprint
from tests.sandbox.harness import Bench, Sh, exists, gone, lives, shell_in

# ---------------------------------------------------------------- how a process ends


@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_exit_code_is_the_programs_own(sh: Sh, code: int) -> None:
    result = await sh(f"exit {code}")
    assert (result.exit_code, result.ok, result.timed_out) == (code, code == 0, False)


async def test_plain_argv_needs_no_shell(box: Sandbox) -> None:
    result = await box.exec(["echo", "a  b", "$HOME", "*"])
    assert result.stdout == b"a  b $HOME *\n"


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
async def test_missing_program_is_127(box: Sandbox, name: str) -> None:
    assert (await box.exec([name])).exit_code == 127


async def test_what_may_not_be_executed_is_126(box: Sandbox) -> None:
    await box.write_file("/tmp/plain", b"#!/bin/sh\n", mode=0o644)
    assert (await box.exec(["/tmp/plain"])).exit_code == 126
    assert (await box.exec(["/tmp"])).exit_code == 126


async def test_script_with_interpreter_line_runs(box: Sandbox) -> None:
    await box.write_file("/tmp/script", b'#!/bin/sh\necho "$#:$2"\nexit 3\n', mode=0o755)
    result = await box.exec(["/tmp/script", "a", "b c"])
    assert (result.exit_code, result.stdout) == (3, b"2:b c\n")


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143), ("SEGV", 139)])
async def test_death_by_signal_is_128_and_its_number(sh: Sh, signal: str, code: int) -> None:
    assert (await sh(f"kill -{signal} $$; sleep 5")).exit_code == code


async def test_stdout_and_stderr_stay_apart(sh: Sh) -> None:
    result = await sh("echo out; echo err >&2; echo more")
    assert (result.stdout, result.stderr) == (b"out\nmore\n", b"err\n")


async def test_duration_is_measured(sh: Sh) -> None:
    assert (await sh("sleep 0.2")).duration_s >= 0.2


# ---------------------------------------------------------------- what goes in


async def test_stdin_is_empty_unless_given(sh: Sh) -> None:
    assert (await sh("wc -c")).stdout.strip() == b"0"


async def test_stdin_of_megabytes_arrives_whole(box: Sandbox) -> None:
    data = bytes(range(256)) * 4096 * 4
    result = await box.exec(["cat"], stdin=data, output_limit_bytes=len(data))
    assert result.stdout == data
    assert not result.truncated


async def test_stdin_nobody_reads_blocks_nothing(sh: Sh) -> None:
    result = await sh("exit 4", stdin=b"x" * (4 << 20))
    assert result.exit_code == 4


async def test_env_is_laid_over_the_sandboxs_own(bench: Bench) -> None:
    box = await bench.sandbox(Blueprint(env=(("A", "spec"), ("B", "spec"))))
    result = await shell_in(box)('echo "$A $B ${C-none}"', env={"B": "exec", "C": "a b"})
    assert result.stdout == b"spec exec a b\n"
    again = await shell_in(box)('echo "$A $B ${C-none}"')
    assert again.stdout == b"spec spec none\n"


async def test_variables_set_later_are_for_what_starts_then(bench: Bench) -> None:
    box = await bench.sandbox(Blueprint(env=(("A", "spec"), ("B", "spec"))))
    sh = shell_in(box)
    box.set_env({"A": "set", "C": "set"})
    assert (await sh('echo "$A $B $C"', env={"C": "exec"})).stdout == b"set spec exec\n"
    async with await box.start(["sh", "-c", "echo $A $B $C"]) as process:
        assert (await process.wait()).stdout == b"set spec set\n"
    (copy,) = await box.fork(1)
    bench.ending.push_async_callback(copy.close)
    assert (await shell_in(copy)('echo "$A ${C-none}"')).stdout == b"spec none\n"
    box.set_env({})
    assert (await sh('echo "$A ${C-none}"')).stdout == b"spec none\n"


async def test_nothing_of_the_hosts_environment_gets_in(
    sh: Sh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_SECRET_OF_THE_HOST", "seen")
    assert b"ROLLOUT_SECRET" not in (await sh("env")).stdout


async def test_there_is_a_path_and_a_home(sh: Sh) -> None:
    result = await sh('[ -n "$PATH" ] && [ -d "$HOME" ] && cd && pwd')
    assert result.stdout == b"/root\n"


async def test_cwd(sh: Sh) -> None:
    assert (await sh("pwd", cwd="/usr")).stdout == b"/usr\n"
    assert (await sh("pwd")).stdout == b"/\n"


async def test_missing_cwd_is_an_error_of_the_call(sh: Sh) -> None:
    with pytest.raises(SandboxError):
        await sh("true", cwd="/no/such/folder")


@pytest.mark.feature("users")
async def test_user(sh: Sh) -> None:
    assert (await sh("id -u")).stdout == b"0\n"
    assert (await sh("id -un", user="nobody")).stdout == b"nobody\n"


async def test_unknown_user_is_an_error_of_the_call(sh: Sh) -> None:
    with pytest.raises(SandboxError):
        await sh("true", user="no-such-user")


@pytest.mark.feature("users")
async def test_an_ordinary_user_cannot_write_what_is_roots(sh: Sh) -> None:
    await sh("mkdir /desk && echo root > /desk/file && mkdir -m 700 /desk/closed")
    for script in ("echo x > /desk/file", "echo x > /desk/new", "rm /desk/file", "ls /desk/closed"):
        assert (await sh(script, user="nobody")).exit_code != 0, script
    assert (await sh("cat /desk/file", user="nobody")).stdout == b"root\n"
    assert (await sh("echo x > /tmp/own && cat /tmp/own", user="nobody")).stdout == b"x\n"


async def test_bytes_that_are_no_text_pass_unchanged(box: Sandbox) -> None:
    raw = bytes([0xFF, 0xFE, 0x80, 0x41])
    result = await box.exec(["printf", "%s", raw.decode("utf-8", "surrogateescape")])
    assert result.stdout == raw
    name = b"/tmp/\xff".decode("utf-8", "surrogateescape")
    await box.write_file(name, raw)
    assert (await box.exec(["cat", name])).stdout == raw
    assert await box.read_file(name) == raw


# ---------------------------------------------------------------- output caps


async def test_output_past_the_cap_is_dropped_and_flagged(sh: Sh) -> None:
    result = await sh("head -c 5000000 /dev/zero; exit 9", output_limit_bytes=100_000)
    assert result.truncated
    assert result.stdout == bytes(100_000)
    assert result.exit_code == 9


async def test_the_caps_are_of_each_stream(sh: Sh) -> None:
    result = await sh("head -c 5000 /dev/zero; echo err >&2", output_limit_bytes=1000)
    assert (len(result.stdout), result.stderr, result.truncated) == (1000, b"err\n", True)


async def test_output_of_exactly_the_cap_is_whole(sh: Sh) -> None:
    result = await sh("head -c 1000 /dev/zero", output_limit_bytes=1000)
    assert (len(result.stdout), result.truncated) == (1000, False)


async def test_endless_output_ends_at_the_deadline(box: Sandbox) -> None:
    result = await box.exec(["yes"], timeout_s=0.3, output_limit_bytes=10)
    assert (result.timed_out, result.truncated, result.stdout) == (True, True, b"y\ny\ny\ny\ny\n")


# ---------------------------------------------------------------- deadlines and cancellation


async def test_timeout_kills_the_whole_group(box: Sandbox, sh: Sh) -> None:
    result = await sh("sleep 60 & echo $!; sleep 60", timeout_s=0.3)
    assert (result.timed_out, result.exit_code, result.ok) == (True, 137, False)
    assert await gone(box, result.stdout.decode().strip())


async def test_output_before_the_timeout_is_kept(sh: Sh) -> None:
    result = await sh("echo early; echo wrong >&2; sleep 60", timeout_s=0.3)
    assert (result.stdout, result.stderr) == (b"early\n", b"wrong\n")


async def test_ignoring_term_does_not_survive_a_timeout(sh: Sh) -> None:
    result = await sh("trap '' TERM INT HUP; while :; do sleep 0.05; done", timeout_s=0.3)
    assert (result.timed_out, result.exit_code) == (True, 137)


async def test_a_busy_loop_ends_at_the_deadline(sh: Sh) -> None:
    assert (await sh("while :; do :; done", timeout_s=0.3)).timed_out


async def test_cancellation_kills_the_whole_group(box: Sandbox, sh: Sh) -> None:
    script = "sleep 60 & echo $$ > /tmp/a; echo $! > /tmp/b; echo > /tmp/ready; sleep 60"
    running = asyncio.ensure_future(sh(script))
    await exists(box, "/tmp/ready")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for name in ("/tmp/a", "/tmp/b"):
        assert await gone(box, (await box.read_file(name)).decode().strip())
    assert (await sh("echo usable")).stdout == b"usable\n"


# ---------------------------------------------------------------- background processes


async def test_a_background_child_lives_on_and_holds_nothing_up(box: Sandbox, sh: Sh) -> None:
    started = time.monotonic()
    result = await sh("sleep 60 & echo $!")
    assert result.exit_code == 0
    assert time.monotonic() - started < 30, "it waited for the child, which keeps stdout open"
    assert await lives(box, result.stdout.decode().strip())


async def test_a_background_child_may_go_on_writing(box: Sandbox, sh: Sh) -> None:
    script = "(sleep 0.2; head -c 1000000 /dev/zero; echo > /tmp/done; sleep 60) & echo now"
    assert (await sh(script)).stdout == b"now\n"
    await exists(box, "/tmp/done")


async def test_leaving_the_group_escapes_a_timeout_but_not_kill_all(box: Sandbox, sh: Sh) -> None:
    script = "setsid sh -c 'echo $$ > /tmp/pid; exec sleep 60' & sleep 60"
    running = asyncio.ensure_future(sh(script, timeout_s=1.0))
    await exists(box, "/tmp/pid")
    assert (await running).timed_out
    pid = (await box.read_file("/tmp/pid")).decode().strip()
    assert await lives(box, pid)
    await box.kill_all()
    assert not await lives(box, pid)


async def test_kill_all_ends_an_exec_and_leaves_the_sandbox_usable(box: Sandbox, sh: Sh) -> None:
    running = asyncio.ensure_future(sh("trap '' TERM; echo > /tmp/ready; sleep 60"))
    await exists(box, "/tmp/ready")
    await box.kill_all()
    assert (await running).exit_code == 137
    assert (await sh("echo usable")).stdout == b"usable\n"


async def test_kill_all_with_nothing_running(box: Sandbox) -> None:
    await box.kill_all()
    await box.kill_all()


# ---------------------------------------------------------------- many at once


async def test_fifty_at_once_do_not_mix(box: Sandbox) -> None:
    async def one(number: int) -> None:
        script = f"echo {number}; cat; sleep 0.1; echo {number} >&2; exit {number}"
        result = await box.exec(["sh", "-c", script], stdin=b"in%d" % number)
        assert result.exit_code == number
        assert result.stdout == b"%d\nin%d" % (number, number)
        assert result.stderr == b"%d\n" % number

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_slow_one_does_not_hold_up_others(box: Sandbox, sh: Sh) -> None:
    slow = asyncio.ensure_future(sh("sleep 60"))
    loud = asyncio.ensure_future(box.exec(["yes"], output_limit_bytes=10))
    for _ in range(5):
        assert (await sh("echo quick")).stdout == b"quick\n"
    assert not slow.done()
    assert not loud.done()
    await box.kill_all()
    assert [(await slow).exit_code, (await loud).exit_code] == [137, 137]
