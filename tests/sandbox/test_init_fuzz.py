"""The real init against requests that nobody would send: it stays, and keeps nothing of them.

ROLLOUT_FUZZ_BOX names another build of the init, ROLLOUT_FUZZ_ROUNDS how many seeds it meets.
"""

import asyncio
import os
import random
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rollout.sandbox import wire
from tests.sandbox.init_box import Box, running_init, until

pytestmark = pytest.mark.native

ROUNDS = int(os.environ.get("ROLLOUT_FUZZ_ROUNDS", "8"))
BOX = os.environ.get("ROLLOUT_FUZZ_BOX", "")
REQUESTS_A_ROUND = 120
AT_ONCE = 24
MOST_GROWTH = 1 << 20
PLACE = "/mnt"
READ_ONLY = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
MOUNT_SETATTR, AT_FDCWD, RDONLY, DETACH = 442, -100, 1, 2
attributes = struct.pack("<QQQQ", RDONLY, 0, 0, 0)
lines = open("/proc/self/mounts", "rb").read().splitlines()
places = [line.split()[1].decode("unicode_escape").encode("latin-1") for line in lines]
for place in places[::-1] * 2:  # twice: what was hidden may lie open after the first time
    if libc.syscall(MOUNT_SETATTR, AT_FDCWD, place, 0, attributes, len(attributes)):
        libc.umount2(place, DETACH)  # what cannot be made so is not there for this init
for place in places:
    if os.path.exists(place) and not os.statvfs(place).f_flag & os.ST_RDONLY:
        sys.exit(f"{place} can be written")
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path, Path(BOX) if BOX else None) as made:
        yield made


def requests(folder: str) -> list[bytes]:
    """One of each, whole, with the frames that belong to it."""
    path = f"{folder}/f"
    entries = [
        wire.entry(wire.EntryHead("dir", 0o755, b"d", b"")),
        wire.entry(wire.EntryHead("file", 0o644, b"d/f", b"")),
        wire.frame(wire.In.DATA, b"content"),
        wire.entry(wire.EntryHead("link", 0o777, b"d/l", b"f")),
        wire.frame(wire.In.END),
    ]
    talk = b"".join(
        [
            wire.frame(wire.In.STDIN, b"line\n" * 50),
            wire.resize(7, 9),
            wire.frame(wire.In.STDIN_EOF),
        ]
    )
    shell = ["sh", "-c", "cat; echo err >&2; sleep 0.01 & exit 3", "x" * 50]

    def process(flags: int) -> bytes:
        return wire.exec_request(
            shell, env={"A": "b"}, user="root", timeout_ms=300, flags=flags, rows=5, cols=6
        )

    both = wire.ExecFlag.STDIN | wire.ExecFlag.ANNOUNCE
    return [
        process(0),
        process(both) + talk,
        process(both | wire.ExecFlag.PTY) + talk,
        wire.plain_request(wire.Op.PING),
        wire.plain_request(wire.Op.KILL_ALL),
        wire.signal_request(2, 28),
        wire.file_request(wire.Op.WRITE_FILE, path, owner="1:1", mode=0o644)
        + wire.frame(wire.In.DATA, b"content")
        + wire.frame(wire.In.END),
        wire.file_request(wire.Op.READ_FILE, path, limit_bytes=1000),
        wire.file_request(wire.Op.UNPACK_TREE, folder) + b"".join(entries),
        wire.file_request(wire.Op.PACK_TREE, folder, limit_bytes=1000, limit_entries=9),
        wire.file_request(wire.Op.REMOVE, f"{folder}/d"),
        wire.port_request(wire.Op.LISTEN, 0),
        wire.port_request(wire.Op.CONNECT, 1),
    ]


def garbled(chance: random.Random, whole: list[bytes]) -> bytes:
    """A request with a few bytes, numbers or parts of it changed; now and then only noise."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(1, 300))
    request = bytearray(chance.choice(whole))
    (length,) = struct.unpack_from("<I", request)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(request))
        match chance.randrange(6):
            case 0:
                request[at] = chance.randrange(256)
            case 1:
                number = chance.choice([0, 1, 65_535, 65_536, 1 << 20, 1 << 31, (1 << 32) - 1])
                request[at : at + 4] = struct.pack("<I", number)
            case 2:
                del request[at:]
            case 3:
                request[at:at] = chance.randbytes(chance.randrange(1, 20))
            case 4:
                del request[at : at + chance.randrange(1, 20)]
            case 5:
                request += chance.choice(whole)
        if not request:
            break
    # The length in front is put back mostly, or near what is there: past it are the readers.
    if len(request) > 4:
        near = len(request) - 4 + chance.randrange(-2, 3)
        fits = chance.choice([length, length, max(0, near), None])
        if fits is not None:
            struct.pack_into("<I", request, 0, fits)
    return bytes(request)


async def throw(box: Box, chance: random.Random, request: bytes) -> None:
    """Send it in pieces, listen for a moment or not at all, and hang up."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError, TimeoutError):
        sock.setblocking(False)
        sock.connect(box.socket)
        cut = chance.randrange(len(request) + 1)
        for piece in (request[:cut], request[cut:]):
            await loop.sock_sendall(sock, piece)
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        listens_s = chance.choice([0, 0.02, 0.1])
        async with asyncio.timeout(listens_s):
            while await loop.sock_recv(sock, 65_536):
                pass


async def round_of(box: Box, seed: int, whole: list[bytes]) -> None:
    chance = random.Random(seed)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(request: bytes) -> None:
        async with slots:
            await throw(box, chance, request)

    thrown = [garbled(chance, whole) for _ in range(REQUESTS_A_ROUND)]
    await asyncio.gather(*(one(request) for request in thrown))
    await box.client.ping()


def holds(box: Box) -> tuple[int, int]:
    """Resident bytes and open descriptors of the init, told by the host."""
    pages = Path(f"/proc/{box.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE"), len([*Path(f"/proc/{box.pid}/fd").iterdir()])


async def keep_the_host_safe(box: Box) -> None:
    """This init stands on the host's own files, and a garbled REMOVE may name any of them."""
    made = await box.client.exec([sys.executable, "-c", READ_ONLY])
    assert made.ok, made
    # Its own /proc may have gone with what was taken away, and that of the host lain below.
    assert await box.sh("mount -t proc -o ro none /proc") == (0, "")
    assert await box.sh(f"mount -t tmpfs -o size=8m none {PLACE}") == (0, "")
    for folder in ("/", "/tmp", "/run", "/var", "/root", box.folder):
        code, said = await box.sh(f"touch {folder}/written-by-a-fuzz-test")
        assert code == 1, folder
        assert "Read-only" in said, (folder, said)


async def test_garbage_of_any_kind_leaves_init_as_it_was(box: Box) -> None:
    await keep_the_host_safe(box)
    whole = requests(PLACE)
    for request in whole:
        await throw(box, random.Random(0), request)
    await round_of(box, 0, whole)
    await box.client.kill_all()
    await until(lambda: box.only_init())
    memory, descriptors = holds(box)
    for seed in range(1, ROUNDS + 1):
        await round_of(box, seed, whole)
    await box.client.kill_all()
    await until(lambda: box.only_init())

    async def no_more_open() -> bool:
        """The last to hang up may still be seen to."""
        return holds(box)[1] <= descriptors

    await until(no_more_open)
    assert holds(box)[0] - memory < MOST_GROWTH
    result = await box.client.exec(["cat"], stdin=b"alive")
    assert result.stdout == b"alive"
