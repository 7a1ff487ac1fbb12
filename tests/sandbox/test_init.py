"""The rules of exec, held to the real init by the real client."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox import wire
from tests.sandbox.init_box import Box, running_init, until

pytestmark = pytest.mark.native


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path) as made:
        yield made


async def test_exec_gives_both_streams_and_the_code(box: Box) -> None:
    result = await box.client.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
    assert not result.truncated
    assert not result.timed_out
    assert result.duration_s > 0


async def test_what_cannot_run_is_told_as_a_shell_tells_it(box: Box) -> None:
    (box.folder / "plain").write_text("echo ran $0 $1")
    missing = await box.client.exec(["no-such-program"])
    assert missing.exit_code == 127
    assert b"no-such-program: No such file" in missing.stderr
    assert (await box.client.exec(["/no/such"])).exit_code == 127
    assert (await box.client.exec([str(box.folder / "plain")])).exit_code == 126
    assert (await box.client.exec([str(box.folder)])).exit_code == 126
    (box.folder / "plain").chmod(0o755)
    script = await box.client.exec(["plain", "x"], env={"PATH": f"/nowhere:{box.folder}"})
    assert script.stdout == f"ran {box.folder}/plain x\n".encode()


async def test_path_is_searched_in_order_and_empty_part_is_the_folder(box: Box) -> None:
    for name in ("one", "two"):
        (box.folder / name).mkdir()
        (box.folder / name / "tool").write_text(f"#!/bin/sh\necho {name}\n")
        (box.folder / name / "tool").chmod(0o755)
    (box.folder / "one" / "tool").chmod(0o644)
    search = {"PATH": f"{box.folder}/one:{box.folder}/two"}
    assert (await box.client.exec(["tool"], env=search)).stdout == b"two\n"
    here = await box.client.exec(["tool"], env={"PATH": ":/x"}, cwd=f"{box.folder}/two")
    assert here.stdout == b"two\n"


async def test_signals_are_told_as_128_plus(box: Box) -> None:
    assert (await box.sh("kill -TERM $$"))[0] == 128 + signal.SIGTERM
    assert (await box.sh("kill -SEGV $$"))[0] == 128 + signal.SIGSEGV


async def test_missing_folder_and_user_are_errors(box: Box) -> None:
    with pytest.raises(SandboxError, match="/no/where: No such file"):
        await box.client.exec(["true"], cwd="/no/where")
    with pytest.raises(SandboxError, match="user 'nobody-knows'"):
        await box.client.exec(["true"], user="nobody-knows")
    with pytest.raises(SandboxError, match="user 'root:no-group'"):
        await box.client.exec(["true"], user="root:no-group")


async def test_users_groups_and_defaults(box: Box) -> None:
    passwd, group = box.folder / "passwd", box.folder / "group"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nann:x:1234:1235::/home/ann:/bin/sh\n")
    group.write_text("root:x:0:\nann:x:1235:\ncrew:x:77:bob,ann\nodd:x:78:anna\n")
    bind = f"mount --bind {passwd} /etc/passwd && mount --bind {group} /etc/group"
    assert await box.sh(bind) == (0, "")

    async def ids(user: str) -> str:
        script = 'echo "$(id -u) $(id -g) $(id -G) $HOME $USER"'
        return (await box.sh(script, user=user))[1].strip()

    assert await ids("") == "0 0 0 /root root"
    assert await ids("ann") == "1234 1235 1235 77 /home/ann ann"
    assert await ids("1234") == "1234 1235 1235 77 /home/ann ann"
    assert await ids("ann:crew") == "1234 77 77 /home/ann ann"
    assert await ids("ann:99") == "1234 99 99 /home/ann ann"
    assert await ids("4000:4001") == "4000 4001 4001 / 4000"
    assert await ids("4000") == "4000 0 0 / 4000"


async def test_the_process_gets_its_env_and_nothing_of_inits(box: Box) -> None:
    result = await box.client.exec(
        ["env"], env={"A": "1", "HOME": "/h", "USER": "u", "PATH": "/bin"}
    )
    assert sorted(result.stdout.split()) == [b"A=1", b"HOME=/h", b"PATH=/bin", b"USER=u"]
    # Read by the shell itself: while it starts a program, it blocks signals for a moment.
    masks = "while read -r name mask; do case $name in Sig[BI]*) echo $name $mask; esac; done"
    _, fds = await box.sh(f"ls /proc/$$/fd; umask; {masks} < /proc/$$/status")
    assert fds.split()[:4] == ["0", "1", "2", "0022"]
    assert fds.split()[5] == fds.split()[7] == "0" * 16
    _, ids = await box.sh("echo $$; cut -d' ' -f5,6 /proc/$$/stat; cat /proc/$$/oom_score_adj")
    pid, group, session, oom = ids.split()
    assert pid == group == session
    assert oom == "500"


async def test_bytes_that_are_no_text_pass(box: Box) -> None:
    odd = b"\xff\xfe\n\x01"
    result = await box.client.exec(["printf", "%s", odd])
    assert result.stdout == odd
    result = await box.client.exec(["printenv", "ODD"], env={"ODD": os.fsdecode(b"\xc3\x28")})
    assert result.stdout == b"\xc3\x28\n"


async def test_a_megabyte_of_arguments_and_variables(box: Box) -> None:
    argv = ["sh", "-c", "echo $#; env | wc -c", "sh", *["x" * 100_000] * 5]
    result = await box.client.exec(argv, env={f"V{i}": "y" * 100_000 for i in range(5)})
    count, size = result.stdout.split()
    assert count == b"5"
    assert int(size) > 500_000
    too_long = await box.client.exec(["true", "x" * 200_000])
    assert too_long.exit_code == 126
    with pytest.raises(SandboxError, match="a request of"):
        await box.client.exec(["true", *["x" * 100_000] * 90])


async def test_nul_bytes_and_no_program_are_refused_before_they_travel(box: Box) -> None:
    with pytest.raises(SandboxError, match="NUL"):
        await box.client.exec(["echo", "a\0b"])
    with pytest.raises(SandboxError, match="argv is empty"):
        await box.client.exec([])


async def test_fifty_megabytes_of_stdin(box: Box) -> None:
    data = os.urandom(1 << 20) * 50
    result = await box.client.exec(["sh", "-c", "cat | wc -c"], stdin=data)
    assert int(result.stdout) == len(data)
    echoed = await box.client.exec(["cat"], stdin=data, output_limit_bytes=len(data))
    assert echoed.stdout == data
    assert not echoed.truncated


async def test_stdin_that_nobody_reads_ends_with_the_process(box: Box) -> None:
    result = await box.client.exec(
        ["sh", "-c", "exec <&-; sleep 0.1; echo done"], stdin=bytes(20 << 20)
    )
    assert result.stdout == b"done\n"
    assert (await box.client.exec(["true"], stdin=bytes(20 << 20))).exit_code == 0
    assert (await box.client.exec(["cat"])).stdout == b""


async def test_output_past_the_limit_is_dropped_and_flagged(box: Box) -> None:
    script = "head -c 5000000 /dev/zero; head -c 10 /dev/zero >&2"
    result = await box.client.exec(["sh", "-c", script], output_limit_bytes=100_000)
    assert (len(result.stdout), len(result.stderr)) == (100_000, 10)
    assert result.truncated
    assert result.exit_code == 0
    none = await box.client.exec(["echo", "x"], output_limit_bytes=0)
    assert none.truncated
    assert none.stdout == b""
    none = await box.client.exec(["no-such-program"], output_limit_bytes=3)
    assert (none.exit_code, none.stderr, none.truncated) == (127, b"rol", True)


async def test_timeout_kills_the_whole_group(box: Box) -> None:
    result = await box.client.exec(["sh", "-c", "echo a; sleep 61 & sleep 61"], timeout_s=0.2)
    assert result.timed_out
    assert result.exit_code == 137
    assert result.stdout == b"a\n"
    await until(lambda: box.gone("sleep"))


async def test_cancelling_kills_the_whole_group(box: Box) -> None:
    call = asyncio.ensure_future(box.client.exec(["sh", "-c", "sleep 62 & sleep 62"]))
    await until(lambda: box.runs("sleep"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: box.gone("sleep"))


async def test_background_children_live_on_and_may_write(box: Box) -> None:
    mark = box.folder / "mark"
    script = f"(sleep 0.3; yes | head -c 3000000; echo still >&2; touch {mark}; sleep 63) & echo up"
    result = await box.client.exec(["sh", "-c", script], timeout_s=30)
    assert result.stdout == b"up\n"
    assert not mark.exists()

    async def marked() -> bool:
        return mark.exists()

    await until(marked)
    await until(lambda: box.runs("sleep"))


async def test_a_background_child_that_floods_does_not_hold_up_the_exit(box: Box) -> None:
    result = await box.client.exec(["sh", "-c", "echo up; yes &"], timeout_s=30)
    assert result.exit_code == 0
    assert not result.timed_out
    assert b"up\n" in result.stdout
    await until(lambda: box.runs("yes"))
    await box.client.kill_all()


async def test_kill_all_takes_all_but_init(box: Box) -> None:
    await box.sh("setsid sleep 64 & setsid sh -c 'sleep 65 & sleep 66' &")
    running = asyncio.ensure_future(box.client.exec(["sleep", "67"]))
    await until(lambda: box.runs("sleep"))
    await asyncio.gather(box.client.kill_all(), box.client.kill_all())
    assert await box.processes() == set()
    ended = await running
    assert ended.exit_code == 137
    assert not ended.timed_out
    assert await box.sh("echo alive") == (0, "alive\n")


async def test_orphans_are_reaped(box: Box) -> None:
    await box.sh("for i in 1 2 3 4 5; do (sleep 0.0$i &) ; done")

    async def no_zombies() -> bool:
        _, states = await box.sh("cat /proc/[0-9]*/stat | grep -c ' Z ' ; :")
        return states.strip() == "0"

    await until(no_zombies)


async def test_init_is_out_of_reach_from_inside(box: Box) -> None:
    _, text = await box.sh("kill -TERM 1; kill -KILL 1; kill -STOP 1; ls /proc/1/fd 2>&1; echo on")
    assert text.endswith("on\n")
    await box.client.ping()
    refused = await box.client.exec(
        [
            "python3",
            "-c",
            f"import socket; s = socket.socket(1); s.connect({box.socket!r});"
            "s.sendall(b'x' * 100); print(s.recv(10))",
        ]
    )
    assert refused.stdout.strip() == b"b''" or b"Error" in refused.stderr


async def test_a_slow_client_stops_only_its_own_process(box: Box) -> None:
    with box.raw() as slow:
        slow.sendall(wire.exec_request(["yes"], env={}))
        await asyncio.sleep(0.2)
        assert await box.sh("echo quick") == (0, "quick\n")
        _, text = await box.sh("cat /proc/1/statm")
        assert int(text.split()[1]) * 4096 < 8 << 20
    await until(lambda: box.gone("yes"))


async def test_a_slow_client_still_gets_all_of_it(box: Box) -> None:
    decoder = wire.Decoder()
    with box.raw() as slow:
        slow.sendall(wire.exec_request(["sh", "-c", "seq 200000; exit 5"], env={}))
        await asyncio.sleep(0.3)
        got: list[tuple[int, bytes]] = []
        while data := slow.recv(3000):
            got += decoder.feed(data)
    text = b"".join(payload for kind, payload in got if kind == wire.Out.STDOUT)
    assert text == b"".join(b"%d\n" % n for n in range(1, 200_001))
    assert got[-1][0] == wire.Out.EXIT
    assert wire.read_exit(got[-1][1]).code == 5


async def test_many_at_once(box: Box) -> None:
    results = await asyncio.gather(*(box.sh(f"sleep 0.2; echo {n}") for n in range(300)))
    assert [text for _, text in results] == [f"{n}\n" for n in range(300)]


async def test_garbage_ends_its_own_connection_only(box: Box) -> None:
    good = wire.exec_request(["cat"], env={}, flags=wire.ExecFlag.STDIN)

    def signal(pid: int, number: int) -> bytes:
        return struct.pack("<IBBHII", 12, wire.VERSION, wire.Op.SIGNAL, 0, pid, number)

    for garbage in (
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.plain_request(wire.Op.EXEC),
        good[:3] + good[3:8] + b"\xff" * (len(good) - 8),
        b"\x04\0\0\0\x01\xee\0\0",
        good + b"\x63\0\0\0\0",
        good + b"\x01\xff\xff\xff\x7f",
        good + wire.frame(wire.In.RESIZE, b"\xff\xff"),
        *(signal(pid, number) for pid, number in ((0, 9), (1, 9), (1 << 31, 9), (2, 0), (2, 65))),
        wire.file_request(wire.Op.READ_FILE, "/etc/hosts")[:-1] + b"x",
    ):
        with box.raw() as sock:
            sock.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    with box.raw() as sock:
        sock.sendall(b"\x04\0\0\0\x09\x03\0\0")
        ((kind, payload),) = wire.Decoder().feed(sock.recv(4096))
    assert kind == wire.Out.ERROR
    assert "version" in wire.read_failure(payload).text
    assert await box.sh("echo fine") == (0, "fine\n")


async def test_idle_connections_past_the_limit_hold_up_and_do_not_break(box: Box) -> None:
    idle = []
    try:
        for _ in range(1024):
            sock = socket.socket(socket.AF_UNIX)
            idle.append(sock)
            sock.connect(box.socket)
        with pytest.raises(SandboxLost, match="no answer"):
            await box.client.ping(timeout_s=0.3)
        idle.pop().close()
        await box.client.ping()
    finally:
        for sock in idle:
            sock.close()


async def test_a_frozen_init_costs_one_deadline(box: Box) -> None:
    os.kill(box.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(SandboxLost, match="no answer from its init"):
        await box.client.exec(["true"], timeout_s=0.1)
    assert time.monotonic() - started < 30
    os.kill(box.pid, signal.SIGCONT)
    await box.client.ping()


async def test_a_dead_init_is_a_lost_sandbox(box: Box) -> None:
    call = asyncio.ensure_future(box.client.exec(["sleep", "68"]))
    await until(lambda: box.runs("sleep"))
    os.kill(box.pid, signal.SIGKILL)
    with pytest.raises(SandboxLost):
        await call
    with pytest.raises(SandboxLost):
        await box.client.ping()
