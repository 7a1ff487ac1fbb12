"""`python -m rollout` in a process of its own that need not import everything once more.

    command = Forked()
    done = command.run(["show", "small"], cwd=folder, env=environment, timeout_s=60)

A server has imported what the command line imports and nothing else. For each line it forks, and
the child becomes what `python -m rollout` is: its argv, folder, environment, stdin, stdout, stderr
and the ordinary end of an interpreter. Starting the interpreter anew would cost a second and more,
a hundred times; the tests that are about the process itself do that (tests/e2e, the terminals).
"""

import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Forked:
    """The server from the outside; started at the first line."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def run(
        self, words: list[str], *, cwd: Path, env: dict[str, str], timeout_s: float
    ) -> "subprocess.CompletedProcess[bytes]":
        """Like subprocess.run with its output captured and nothing on its stdin."""
        outputs = [os.pipe(), os.pipe()]
        with Path(os.devnull).open("rb") as stdin, ThreadPoolExecutor(2) as readers:
            written = [writing for _, writing in outputs]
            self._ask({"words": words, "cwd": str(cwd), "env": env}, [stdin.fileno(), *written])
            for writing in written:
                os.close(writing)
            read = [readers.submit(_read_all, reading) for reading, _ in outputs]
            code = self._ended(timeout_s, words)
            stdout, stderr = (each.result(timeout_s) for each in read)
        return subprocess.CompletedProcess(words, code, stdout, stderr)

    def said(
        self, words: list[str], *, cwd: Path, timeout_s: float = 200
    ) -> "subprocess.CompletedProcess[str]":
        """The same in this process's environment, with its output as text."""
        done = self.run(words, cwd=cwd, env=dict(os.environ), timeout_s=timeout_s)
        stdout, stderr = (each.decode() for each in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(words, done.returncode, stdout, stderr)

    def _ask(self, request: dict[str, object], fds: list[int]) -> None:
        if self._server is None:
            self._socket, theirs = socket.socketpair()
            command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            with theirs:
                self._server = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
                )
        line = json.dumps(request).encode() + b"\n"
        socket.send_fds(self._socket, [line], fds)

    def _ended(self, timeout_s: float, words: list[str]) -> int:
        self._socket.settimeout(timeout_s)
        with self._socket.makefile("rb") as answers:
            pid = int(answers.readline())
            try:
                return int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self.close()
                raise subprocess.TimeoutExpired(words, timeout_s) from None

    def close(self) -> None:
        """A later line starts another server."""
        if self._server is not None:
            self._socket.close()
            self._server.wait()
            self._server = None


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


# ---------------------------------------------------------------- in the server


def imported_by_the_command_line() -> None:
    commands = importlib.import_module("rollout.commands")
    importlib.import_module("rollout.__main__")
    del sys.modules["rollout.__main__"]  # it runs anew in each child, as the program that it is
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"rollout.commands.{module.name}")


def serve(asked: socket.socket) -> list[str]:
    """Returns in a child, with the words of its line; ends with whoever asks."""
    while True:
        received, fds, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not received:
            sys.exit()
        while not received.endswith(b"\n"):
            received += asked.recv(1 << 20)
        pid = os.fork()
        if pid == 0:
            asked.close()
            return become(json.loads(received), fds)
        for fd in fds:
            os.close(fd)
        with suppress(ConnectionError):
            asked.sendall(b"%d\n" % pid)
            asked.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def become(request: dict[str, object], fds: list[int]) -> list[str]:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = str(Path.cwd())
    return list(request["words"])


if __name__ == "__main__":
    imported_by_the_command_line()
    sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("rollout", run_name="__main__", alter_sys=True)
