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


def _passing(*descriptors: int, kind: wire.Out = wire.Out.OK) -> Callable[[socket.socket], None]:
    """Answers as if all had gone well, and passes these."""

    def answer(sock: socket.socket) -> None:
        content = array.array("i", descriptors)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)] if descriptors else []
        sock.sendmsg([wire.frame(kind)], rights)

    return answer


async def _refused(path: Path, call: str, answer: Callable[[socket.socket], None]) -> str:
    """What is said of an init that answers `call` so."""
    path.unlink(missing_ok=True)
    serving = await _lying(path, answer)
    with pytest.raises(SandboxError) as told:
        await getattr(InitClient(str(path)), call)(80)
    await serving
    return str(told.value)


async def test_passed_descriptors_are_checked_and_never_leak(tmp_path: Path) -> None:
    before = _descriptors()
    path = tmp_path / "s"
    with (
        Path("/dev/null").open() as null,
        socket.socket() as plain,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", 0)) as serving,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(tmp_path / "local"))
        local.listen()
        either = {"0 descriptors": (), "no socket": (null,), "another kind": (udp, udp, udp)}
        wrong = {
            "listen": {**either, "another kind of socket": (plain,)},
            "connect": {**either, "another kind of socket": (serving,), "not connected": (plain,)},
        }
        for call, cases in wrong.items():
            for reason, passed in cases.items():
                said = await _refused(path, call, _passing(*(one.fileno() for one in passed)))
                assert reason in said
            for stranger in (local, udp):
                said = await _refused(path, call, _passing(stranger.fileno()))
                assert "another kind of socket" in said
        said = await _refused(path, "listen", _passing(serving.fileno(), kind=wire.Out.STARTED))
        assert "unexpected frame" in said
    assert _descriptors() == before
