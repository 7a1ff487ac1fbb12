"""What every engine must do, part 5: two sandboxes on one machine see nothing of each other."""

import pytest

from rollout.sandbox.base import Sandbox
from tests.sandbox.harness import Bench, exists, shell_in

PUT_AND_FIND: dict[str, tuple[str, str]] = {
    "file": ("open('/tmp/mine', 'w').write('x')", "open('/tmp/mine').read()"),
    "shared memory": ("open('/dev/shm/mine', 'w').write('x')", "open('/dev/shm/mine').read()"),
    "POSIX semaphore": (
        "import _multiprocessing as m; s = m.SemLock(1, 1, 1, '/mine', False)",
        "import _multiprocessing as m; m.SemLock._rebuild(0, 1, 1, '/mine')",
    ),
    "port": (
        "import socket; s = socket.create_server(('127.0.0.1', 7777))",
        "import socket; socket.create_connection(('127.0.0.1', 7777))",
    ),
    "abstract socket": (
        "import socket; s = socket.socket(1); s.bind(chr(0) + 'mine'); s.listen()",
        "import socket; socket.socket(1).connect(chr(0) + 'mine')",
    ),
    "SysV shared memory": (
        "must(libc.shmget(7777, 4096, 0o1666))",
        "must(libc.shmget(7777, 0, 0))",
    ),
    "SysV semaphore": ("must(libc.semget(7777, 1, 0o1666))", "must(libc.semget(7777, 0, 0))"),
    "SysV queue": ("must(libc.msgget(7777, 0o1666))", "must(libc.msgget(7777, 0))"),
    "POSIX queue": (
        "must(libc.mq_open(b'/mine', 0o102, 0o666, None))",
        "must(libc.mq_open(b'/mine', 0))",
    ),
    "process": (
        "import ctypes; libc.prctl(15, b'mine')",
        "import glob; [p for p in glob.glob('/proc/*/comm') if 'mine' in open(p).read()][0]",
    ),
}
PRELUDE = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


async def hold(box: Sandbox, code: str) -> None:
    """Run it in a process that stays."""
    text = f"{PRELUDE}\n{code}\nopen('/tmp/held', 'w').close()\ntime.sleep(1000)\n"
    await box.write_file("/tmp/hold.py", text.encode())
    await shell_in(box)("/usr/bin/python3 /tmp/hold.py > /tmp/said 2>&1 &")
    try:
        await exists(box, "/tmp/held")
    except TimeoutError:
        pytest.fail((await box.read_file("/tmp/said")).decode())


async def finds(box: Sandbox, code: str) -> bool:
    return (await box.exec(["/usr/bin/python3", "-c", f"{PRELUDE}\n{code}\n"])).ok


@pytest.mark.parametrize("what", PUT_AND_FIND)
async def test_what_one_makes_the_other_does_not_find(
    bench: Bench, real_box: Sandbox, what: str
) -> None:
    put, find = PUT_AND_FIND[what]
    other = await bench.sandbox()
    assert not await finds(real_box, find)
    await hold(real_box, put)
    assert await finds(real_box, find), "or the test could not fail"
    assert not await finds(other, find)


async def test_inotify_is_of_each_its_own(bench: Bench, real_box: Sandbox) -> None:
    """The kernel counts instances by user of the host, unless a sandbox has its own count."""
    if bench.engine.name == "docker":
        pytest.skip("root of every container is one user of the host's, as the README says")
    take = "\n".join(
        [
            "made = 0",
            "while libc.inotify_init() >= 0: made += 1",
            "open('/tmp/n', 'w').write(str(made))",
        ]
    )
    await hold(real_box, f"import resource\n{take}")
    assert 0 < int(await real_box.read_file("/tmp/n")) < 1000
    other = await bench.sandbox()
    assert await finds(other, "[must(libc.inotify_init()) for _ in range(8)]")


async def test_keyrings_are_out_of_reach_or_of_each_its_own(
    bench: Bench, real_box: Sandbox
) -> None:
    numbers = "add, keyctl = (248, 250) if os.uname().machine == 'x86_64' else (217, 219)\n"
    add_key = numbers + "must(libc.syscall(add, b'user', b'mine', b'x', 1, -4))"
    search = numbers + "must(libc.syscall(keyctl, 10, -4, b'user', b'mine', 0))"
    other = await bench.sandbox()
    if await finds(real_box, add_key):
        assert not await finds(other, search)
    else:
        assert not await finds(other, add_key)
