"""Sockets that pass between a sandbox and the host."""

import array
import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rollout.errors import SandboxError
from rollout.sandbox import wire
from rollout.sandbox.client import InitClient
from tests.sandbox.init_box import Box, running_init

pytestmark = pytest.mark.native


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with running_init(tmp_path) as made:
        yield made


@pytest.fixture
async def served(box: Box) -> AsyncIterator[socket.socket]:
    listener = await box.client.listen(0)
    yield listener
    listener.close()


async def test_ports_reach_into_the_sandbox(box: Box, served: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    port = served.getsockname()[1]
    accepting = asyncio.ensure_future(loop.sock_accept(served))
    inside = await box.client.connect(port)
    outside, _ = await accepting
    with inside, outside:
        await loop.sock_sendall(outside, b"hello")
        assert await loop.sock_recv(inside, 100) == b"hello"
    with pytest.raises(SandboxError, match=r"Address.* in use"):
        await box.client.listen(port)


async def test_connecting_where_nobody_listens(box: Box, served: socket.socket) -> None:
    port = served.getsockname()[1]
    served.close()
    with pytest.raises(SandboxError, match="refused"):
        await box.client.connect(port)


async def _lying(path: Path, answer: Callable[[socket.socket], None]) -> asyncio.Task[None]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        with listener:
            sock, _ = await loop.sock_accept(listener)
            with sock:
                answer(sock)

    return asyncio.ensure_future(serve())


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def test_passed_descriptors_are_checked_and_never_leak(tmp_path: Path) -> None:
    def pass_fds(*fds: int) -> Callable[[socket.socket], None]:
        def answer(sock: socket.socket) -> None:
            content = array.array("i", fds)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)] if fds else []
            sock.sendmsg([wire.frame(wire.Out.OK)], rights)

        return answer

    before = _descriptors()
    with Path("/dev/null").open() as null, socket.socket() as plain, socket.socket(type=2) as udp:
        liars = {
            "0 descriptors": pass_fds(),
            "no socket": pass_fds(null.fileno()),
            "another kind": pass_fds(plain.fileno()),
            "another kind of socket": pass_fds(udp.fileno(), udp.fileno(), udp.fileno()),
        }
        for number, (reason, answer) in enumerate(liars.items()):
            path = tmp_path / str(number)
            serving = await _lying(path, answer)
            with pytest.raises(SandboxError, match=reason):
                await InitClient(str(path)).listen(80)
            await serving
    assert _descriptors() == before
