"""What every engine must do, part 6: sockets between a sandbox and the host."""

import asyncio
import socket
from pathlib import Path

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Engine, Process, Sandbox
from tests.sandbox.harness import Bench

SHOUT = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
print("up", flush=True)
while True:
    peer, _ = server.accept()
    while data := peer.recv(65536):
        peer.sendall(data.upper())
    peer.close()
"""
"""Answers in capitals, inside a sandbox."""

CALL = """
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peer.sendall(b"hello from inside")
peer.shutdown(socket.SHUT_WR)
print(peer.makefile().read(), end="")
"""

ports = pytest.mark.feature("ports")


def python(code: str, *args: str) -> list[str]:
    return ["/usr/bin/python3", "-c", code, *args]


async def shouting(box: Sandbox) -> Process:
    process = await box.start(python(SHOUT))
    assert await anext(process) == ("stdout", b"up\n")
    return process


async def read_to_end(sock: socket.socket) -> bytes:
    pieces = []
    while piece := await asyncio.get_running_loop().sock_recv(sock, 65536):
        pieces.append(piece)
    return b"".join(pieces)


async def say(sock: socket.socket, data: bytes) -> bytes:
    """Send all of it and give all that comes back, up to the end."""

    async def send() -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    _, answer = await asyncio.gather(send(), read_to_end(sock))
    return answer


async def test_without_the_feature_ports_are_refused(engine: Engine, box: Sandbox) -> None:
    if "ports" in engine.features:
        (await box.listen(0)).close()
        return
    for call in (box.listen, box.connect):
        with pytest.raises(SandboxError, match="network"):
            await call(80)


@ports
async def test_a_server_inside_is_reached_from_here(box: Sandbox) -> None:
    async with await shouting(box):
        with await box.connect(8080) as one, await box.connect(8080) as two:
            assert await say(one, b"hello") == b"HELLO"
            assert await say(two, b"x" * 5_000_000) == b"X" * 5_000_000


@ports
async def test_what_is_accepted_here_is_reached_from_inside(box: Sandbox) -> None:
    with await box.listen(80) as listener:
        assert listener.getsockname() == ("127.0.0.1", 80)
        for _ in range(3):
            calling = asyncio.ensure_future(box.exec(python(CALL, "80")))
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            with peer:
                assert await read_to_end(peer) == b"hello from inside"
                await asyncio.get_running_loop().sock_sendall(peer, b"hello from here")
            assert (await calling).stdout == b"hello from here"


@ports
async def test_both_ends_may_be_ours(box: Sandbox) -> None:
    with await box.listen(0) as listener:
        port = listener.getsockname()[1]
        with await box.connect(port) as near:
            far, _ = await asyncio.get_running_loop().sock_accept(listener)
            with far:
                await asyncio.get_running_loop().sock_sendall(near, b"through")
                near.shutdown(socket.SHUT_WR)
                assert await read_to_end(far) == b"through"


@ports
async def test_passed_sockets_wait_for_nobody_and_are_not_inherited(box: Sandbox) -> None:
    with await box.listen(0) as listener, await box.connect(listener.getsockname()[1]) as sock:
        for one in (listener, sock):
            assert not one.getblocking()
            assert not one.get_inheritable()
        with pytest.raises(BlockingIOError):
            sock.recv(1)


@ports
async def test_a_port_in_use_is_an_error_of_the_call(box: Sandbox) -> None:
    with await box.listen(8080), pytest.raises(SandboxError, match="in use") as told:
        await box.listen(8080)
    assert not isinstance(told.value, SandboxLost)
    async with await shouting(box):
        with pytest.raises(SandboxError, match="in use"):
            await box.listen(8080)


@ports
async def test_a_port_is_free_again_once_it_is_closed(box: Sandbox) -> None:
    for _ in range(3):
        (await box.listen(8080)).close()


@ports
async def test_connecting_where_nobody_listens(box: Sandbox) -> None:
    with pytest.raises(SandboxError, match="refused") as told:
        await box.connect(8080)
    assert not isinstance(told.value, SandboxLost)


@ports
@pytest.mark.parametrize("port", [-1, 65536])
async def test_what_is_no_port_is_refused(box: Sandbox, port: int) -> None:
    for call in (box.listen, box.connect):
        with pytest.raises(SandboxError, match="no port"):
            await call(port)


@ports
async def test_ports_of_two_sandboxes_are_not_each_others_nor_the_hosts(bench: Bench) -> None:
    one, two = await bench.sandbox(), await bench.sandbox()
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        for box in (one, two):
            with pytest.raises(SandboxError, match="refused"):
                await box.connect(port)
        with await one.listen(port), await two.listen(port):
            pass
        with await one.listen(port), pytest.raises(SandboxError, match="refused"):
            await two.connect(port)


@ports
async def test_sockets_end_with_their_sandbox(box: Sandbox) -> None:
    loop = asyncio.get_running_loop()
    process = await shouting(box)
    with await box.connect(8080) as sock, await box.listen(0) as listener:
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        reading = asyncio.ensure_future(read_to_end(sock))
        await asyncio.sleep(0.05)
        await box.close()
        async with asyncio.timeout(10):
            assert await reading == b""
            with pytest.raises(OSError, match="Invalid argument"):
                await accepting
    process.close()
    for call in (box.listen, box.connect):
        with pytest.raises(SandboxLost):
            await call(80)


@ports
async def test_a_hundred_connections_leave_no_descriptor_here(box: Sandbox) -> None:
    async with await shouting(box):
        (await box.connect(8080)).close()
        before = set(Path("/proc/self/fd").iterdir())
        for _ in range(100):
            (await box.connect(8080)).close()
            (await box.listen(0)).close()
        assert set(Path("/proc/self/fd").iterdir()) == before


@ports
@pytest.mark.feature("users")
async def test_an_ordinary_users_server_is_reached_too(box: Sandbox) -> None:
    process = await box.start(python(SHOUT), user="nobody")
    async with process:
        assert await anext(process) == ("stdout", b"up\n")
        with await box.connect(8080) as sock:
            assert await say(sock, b"hello") == b"HELLO"
