"""A process that plays the init of a sandbox and breaks every rule it is told to break.

Run as a program it listens on the socket named by its argument. Each line of its stdin is a JSON
list of plays; each connection takes the next one and the last one stays. One line answers each.
"""

import array
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Play:
    """What one connection does: read or not, say something once or for ever, stall or close."""

    say: bytes = b""
    again: bool = False
    """Say it until the host hangs up."""
    one_by_one: bool = False
    """A system call for each byte."""
    reads: bool = True
    """Read all that the host sends, meanwhile."""
    stays: bool = True
    """Keep the connection until the host hangs up, instead of closing it after the last byte."""
    passes: list[str] = field(default_factory=list)
    """Descriptors that go with every piece that is said."""

    def line(self) -> dict[str, object]:
        return {**asdict(self), "say": self.say.hex()}


class HostileInit:
    """The program from the outside."""

    def __init__(self, path: str, program: "subprocess.Popen[bytes]") -> None:
        self.path = path
        self._program = program

    def plays(self, *plays: Play) -> None:
        """What the next connections meet."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps([play.line() for play in plays]).encode() + b"\n")
        self._program.stdin.flush()
        assert self._program.stdout.readline() == b"ready\n"


@contextmanager
def hostile_init(folder: Path) -> Iterator[HostileInit]:
    path = str(folder / "hostile")
    program = subprocess.Popen(
        [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with program:
        try:
            made = HostileInit(path, program)
            made.plays(Play())
            yield made
        finally:
            program.kill()


# ---------------------------------------------------------------- in that process


SERVER: socket.socket
"""What a connected descriptor is connected to."""


def act(sock: socket.socket, play: Play) -> None:
    if play.reads:
        threading.Thread(target=swallow, args=(sock,), daemon=True).start()
    pieces = [bytes([byte]) for byte in play.say] if play.one_by_one else [play.say]
    with suppress(OSError), sock:
        fds = array.array("i", [descriptor(name) for name in play.passes])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        while play.say:
            for piece in pieces:
                whole = memoryview(piece)
                while whole:
                    whole = whole[sock.sendmsg([whole], rights) :]
            if not play.again:
                break
        for fd in fds:
            os.close(fd)
        if play.stays:
            until_hung_up(sock)
        sock.shutdown(socket.SHUT_RDWR)


def descriptor(name: str) -> int:
    """A new one of that kind; its owner closes it."""
    if name == "null":
        return os.open("/dev/null", os.O_RDONLY)
    if name == "listening":
        return socket.create_server(("127.0.0.1", 0)).detach()
    if name == "connected":
        return socket.create_connection(SERVER.getsockname()).detach()
    return socket.socket({"unix": socket.AF_UNIX, "idle": socket.AF_INET}[name]).detach()


def swallow(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 20):
            pass


def until_hung_up(sock: socket.socket) -> None:
    # Asking for nothing still tells of the other end's close, whatever lies unread.
    poll = select.poll()
    poll.register(sock, 0)
    poll.poll()


def main(path: str) -> None:
    global SERVER
    SERVER = socket.create_server(("127.0.0.1", 0))
    plays: queue.Queue[Play] = queue.Queue()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)

    def serve() -> None:
        play = Play()
        while True:
            sock, _ = listener.accept()
            with suppress(queue.Empty):
                play = plays.get_nowait()
            threading.Thread(target=act, args=(sock, play), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    for line in sys.stdin:
        with suppress(queue.Empty):
            while True:
                plays.get_nowait()
        for each in json.loads(line):
            plays.put(Play(**{**each, "say": bytes.fromhex(each["say"])}))
        print("ready", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
