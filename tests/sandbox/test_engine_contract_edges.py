"""What every engine must do, part 4: sizes, bytes and ends at the edge of what a kernel takes."""

import asyncio
import os
from contextlib import suppress

import pytest

from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.types import Tree, TreeEntry
from tests.sandbox.harness import Bench, Sh, exists, gone, lives, shell_in

ODD = b"\xff\xc3\x28\x80"
"""Bytes that are no text in any place."""
ODD_NAME = os.fsdecode(ODD)

# ---------------------------------------------------------------- how much goes in and out


async def test_fifty_megabytes_of_stdin(box: Sandbox) -> None:
    data = os.urandom(1 << 20) * 50
    result = await box.exec(["wc", "-c"], stdin=data)
    assert int(result.stdout) == len(data)


async def test_a_megabyte_of_arguments_and_variables(sh: Sh, box: Sandbox) -> None:
    argv = ["sh", "-c", 'echo $#; echo "${#V0} ${#V4}"', "sh", *["x" * 100_000] * 5]
    result = await box.exec(argv, env={f"V{n}": "y" * 100_000 for n in range(5)})
    assert result.stdout == b"5\n100000 100000\n"


async def test_more_than_a_request_holds_is_refused_before_it_travels(box: Sandbox) -> None:
    with pytest.raises(SandboxError, match="a request of"):
        await box.exec(["true", *["x" * 100_000] * 90])
    with pytest.raises(SandboxError, match="NUL"):
        await box.exec(["echo", "a\0b"])
    assert (await box.exec(["echo", "usable"])).stdout == b"usable\n"


async def test_what_the_kernel_refuses_is_126_with_its_reason(real_box: Sandbox) -> None:
    """One argument past 128 KiB, and 3 MB of them where a stack of 8 MB gives room for two."""
    for argv in (["true", "x" * 200_000], ["true", *["x" * 100_000] * 30]):
        result = await real_box.exec(argv)
        assert result.exit_code == 126
        assert b"Argument list too long" in result.stderr


async def test_five_megabytes_against_a_cap_on_both_streams(sh: Sh) -> None:
    script = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2"
    result = await sh(script, output_limit_bytes=100_000)
    assert (result.stdout, result.stderr) == (bytes(100_000), bytes(100_000))
    assert (result.truncated, result.exit_code) == (True, 0)


# ---------------------------------------------------------------- bytes that are no text


async def test_odd_bytes_in_variables_folders_and_output(box: Sandbox, sh: Sh) -> None:
    assert (await sh('printf %s "$V"', env={"V": ODD_NAME})).stdout == ODD
    await box.write_file(f"/srv/{ODD_NAME}/file", ODD)
    assert (
        await sh("cat file; pwd", cwd=f"/srv/{ODD_NAME}")
    ).stdout == ODD + b"/srv/" + ODD + b"\n"
    assert await box.read_file(f"/srv/{ODD_NAME}/file") == ODD


async def test_odd_bytes_in_the_names_of_a_tree(box: Sandbox) -> None:
    tree = Tree(
        (
            TreeEntry(ODD_NAME, "dir", 0o755),
            TreeEntry(f"{ODD_NAME}/{ODD_NAME}", "file", 0o644, ODD),
            TreeEntry("line\nbreak", "file", 0o644, b""),
            TreeEntry("link", "link", 0o777, target=f"{ODD_NAME}/{ODD_NAME}"),
        )
    )
    await box.put_tree(tree, "/srv/odd")
    assert {
        e.path: (e.kind, e.data, e.target) for e in (await box.get_tree("/srv/odd")).entries
    } == {e.path: (e.kind, e.data, e.target) for e in tree.entries}
    await box.remove(f"/srv/odd/{ODD_NAME}")
    assert {e.path for e in (await box.get_tree("/srv/odd")).entries} == {"line\nbreak", "link"}


# ---------------------------------------------------------------- signals, orphans, escapees


async def test_a_program_may_answer_a_signal(sh: Sh) -> None:
    result = await sh("trap 'echo caught; exit 9' TERM; kill -TERM $$; sleep 5")
    assert (result.exit_code, result.stdout) == (9, b"caught\n")


@pytest.mark.parametrize("signal", [1, 2, 3, 6, 9, 10, 13, 14, 15, 24, 31, 34, 64])
async def test_any_signal_that_ends_is_told_by_its_number(real_box: Sandbox, signal: int) -> None:
    code = f"import os, signal; signal.signal({signal}, signal.SIG_DFL) if {signal} != 9 else 0; "
    code += f"os.kill(os.getpid(), {signal})"
    assert (await real_box.exec(["/usr/bin/python3", "-c", code])).exit_code == 128 + signal


async def test_a_missing_interpreter_is_127(real_box: Sandbox) -> None:
    await real_box.write_file("/tmp/tool", b"#!/no/such/interpreter\n", mode=0o755)
    assert (await real_box.exec(["/tmp/tool"])).exit_code == 127


async def test_orphans_leave_no_zombies(real_box: Sandbox) -> None:
    """Two hundred whose parents ended before them: nobody but init can wait for them."""
    sh = shell_in(real_box)
    await sh("i=0; while [ $i -lt 200 ]; do (sleep 0.0$((i % 10)) &); i=$((i+1)); done")
    look = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; ls -d /proc/[0-9]* | wc -l"
    async with asyncio.timeout(20):
        while len(seen := (await sh(look)).stdout.split()) > 1 or int(seen[0]) > 4:
            await asyncio.sleep(0.05)


ESCAPES = {
    "double fork": "( (echo $$ > /tmp/sh; sleep 60 & echo $! > /tmp/pid) & )",
    "setsid": "setsid sh -c 'echo $$ > /tmp/pid; exec sleep 60' &",
    "setsid and double fork": "setsid sh -c '(sleep 60 & echo $! > /tmp/pid) &' &",
    "deaf": "setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > /tmp/pid; while :; do sleep 1; done'&",
}


@pytest.mark.parametrize("way", ESCAPES)
async def test_who_escaped_its_group_dies_with_kill_all(box: Sandbox, sh: Sh, way: str) -> None:
    assert (await sh(ESCAPES[way])).ok
    await exists(box, "/tmp/pid")
    pid = ""
    while not pid:
        pid = (await box.read_file("/tmp/pid")).decode().strip()
    assert await lives(box, pid)
    await box.kill_all()
    assert await gone(box, pid)


async def test_who_escaped_its_group_dies_with_the_sandbox(bench: Bench, box: Sandbox) -> None:
    """It writes until the very end, and the image made of that end stays as it is."""
    write = "while :; do echo x >> /srv/running; sleep 0.01; done"
    await shell_in(box)(f"setsid sh -c '({write}) & ({write}) & exit' &")
    await exists(box, "/srv/running")
    child = await bench.create(SandboxSpec(image=await box.end_as_image()))
    size = (await child.exec(["wc", "-c", "/srv/running"])).stdout
    await asyncio.sleep(0.2)
    assert (await child.exec(["wc", "-c", "/srv/running"])).stdout == size


async def test_a_background_child_keeps_stdout_and_serves_a_port(real_box: Sandbox) -> None:
    serve = (
        "import socket, sys, time; time.sleep(0.2); s = socket.create_server(('127.0.0.1', 8080));"
        "print('up', flush=True); open('/tmp/up', 'w').close();\n"
        "while True: c, _ = s.accept(); c.sendall(b'hello'); c.close(); print('served', flush=True)"
    )
    await real_box.write_file("/tmp/serve.py", serve.encode())
    result = await shell_in(real_box)("/usr/bin/python3 /tmp/serve.py & echo started")
    assert (result.exit_code, result.stdout) == (0, b"started\n")
    await exists(real_box, "/tmp/up")
    ask = "import socket; print(socket.create_connection(('127.0.0.1', 8080)).recv(9).decode())"
    for _ in range(3):
        assert (await real_box.exec(["/usr/bin/python3", "-c", ask])).stdout == b"hello\n"


async def test_two_hundred_at_once(box: Sandbox) -> None:
    async def one(number: int) -> None:
        result = await box.exec(
            ["sh", "-c", f"cat; sleep 0.2; exit {number}"], stdin=b"%d" % number
        )
        assert (result.exit_code, result.stdout) == (number, b"%d" % number)

    await asyncio.gather(*(one(number) for number in range(200)))


# ---------------------------------------------------------------- hostile trees, both ways

BAD_TREES = {
    "a file behind a link": (TreeEntry("a", "link", target="b"), TreeEntry("a/x", "file")),
    "a link out": (TreeEntry("a", "link", target="../x"),),
    "an absolute link": (TreeEntry("a", "link", target="/etc"),),
    "a link out by a link": (
        TreeEntry("rt", "dir"),
        TreeEntry("rt/x", "link", target=".."),
        TreeEntry("r", "link", target="rt"),
        TreeEntry("z", "link", target="r/x/../y"),
    ),
    "the same name twice": (TreeEntry("a", "link", target="b"), TreeEntry("a", "file")),
    "a device": (TreeEntry("a", "device"),),
    "too deep": (TreeEntry("d/" * 128 + "f", "file"),),
    "a long name": (TreeEntry("n" * 256, "file"),),
    "a NUL": (TreeEntry("a\0b", "file"),),
}


@pytest.mark.parametrize("name", BAD_TREES)
async def test_a_hostile_tree_is_not_put(box: Sandbox, sh: Sh, name: str) -> None:
    await sh("mkdir -p /srv/a /srv/b")
    with pytest.raises(TreeRefused):
        await box.put_tree(Tree(BAD_TREES[name]), "/srv/a")
    assert (await sh("ls -A /srv/a /srv/b")).stdout == b"/srv/a:\n\n/srv/b:\n"


BOMBS = {
    "a sparse terabyte": "truncate -s 1T /srv/a/f",
    "a hundred thousand names": "cd /srv/a && seq 100001 | xargs touch",
    "very deep": "cd /srv/a; for i in $(seq 500); do mkdir d; cd d; done",
    "one file under many names": (
        "cd /srv/a && head -c 20000000 /dev/zero > 0 && for i in $(seq 20); do ln 0 $i; done"
    ),
    "a socket": ("/usr/bin/python3 -c 'import socket; socket.socket(1).bind(\"/srv/a/s\")'"),
    "a link out by a link": "cd /srv/a; mkdir rt; ln -s .. rt/x; ln -s rt r; ln -s r/x/../y z",
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_and_the_sandbox_lives(real_box: Sandbox, name: str) -> None:
    sh = shell_in(real_box)
    assert (await sh(f"mkdir /srv/a; {BOMBS[name]}")).ok
    with pytest.raises(TreeRefused):
        await real_box.get_tree("/srv/a")
    assert (await sh("echo usable")).stdout == b"usable\n"
    await real_box.remove("/srv/a")
    assert (await sh("ls -A /srv")).stdout == b""


async def test_a_hard_link_comes_as_the_content_it_had(real_box: Sandbox) -> None:
    """It leads nowhere: what is put back is a file of its own."""
    sh = shell_in(real_box)
    assert (await sh("mkdir /srv/a && echo mine > /srv/out && ln /srv/out /srv/a/in")).ok
    tree = await real_box.get_tree("/srv/a")
    assert tree.files() == {"in": b"mine\n"}
    await real_box.put_tree(Tree.of({"in": b"changed\n"}), "/srv/a")
    assert await real_box.read_file("/srv/out") == b"mine\n"


async def test_a_tree_whose_names_move_meanwhile_is_taken_or_refused(real_box: Sandbox) -> None:
    """Folders become links and back again while they are read and written."""
    sh = shell_in(real_box)
    await sh("mkdir -p /srv/a/d /srv/b /srv/out && echo out > /srv/out/f && echo in > /srv/a/d/f")
    swap = "while :; do mv d e 2>/dev/null; ln -s ../out d; rm d; mv e d 2>/dev/null; done"
    await sh(f"cd /srv/a; ({swap}) >/dev/null 2>&1 &")
    for _ in range(40):
        with suppress(SandboxError):
            assert b"out\n" not in (await real_box.get_tree("/srv/a")).files().values()
        with suppress(SandboxError):
            await real_box.put_tree(Tree.of({"d/f": b"in\n"}), "/srv/a")
    assert await real_box.read_file("/srv/out/f") == b"out\n"


async def test_what_is_deep_in_an_image_can_be_removed(bench: Bench, real_box: Sandbox) -> None:
    """An overlay renames no folder of its image."""
    deep = "mkdir /srv/a; cd /srv/a; for i in $(seq 450); do mkdir d; cd d; echo > f; done"
    assert (await shell_in(real_box)(deep)).ok
    child = await bench.create(SandboxSpec(image=await real_box.end_as_image()))
    await child.remove("/srv/a")
    assert (await shell_in(child)("ls -A /srv")).stdout == b""
