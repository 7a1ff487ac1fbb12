"""`< > >> 2>&1 <<`: other descriptors for one command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rollout.sandbox.memory import expand
from rollout.sandbox.memory.expand import Scope
from rollout.sandbox.memory.process import Process, to_bytes
from rollout.sandbox.memory.streams import Source, Stream
from rollout.sandbox.memory.syntax import Redirect


class CannotRedirect(Exception):
    """A file of a redirection cannot be opened."""


@asynccontextmanager
async def redirected(
    scope: Scope, process: Process, redirects: tuple[Redirect, ...]
) -> AsyncIterator[None]:
    """The block runs with other descriptors. CannotRedirect if one cannot be opened."""
    if not redirects:
        yield
        return
    before = process.fds
    process.fds = {number: stream.hold() for number, stream in before.items()}
    try:
        for redirect in redirects:
            await apply(scope, process, redirect)
        yield
    finally:
        for stream in process.fds.values():
            stream.release()
        process.fds = before


async def apply(scope: Scope, process: Process, redirect: Redirect) -> None:
    """Change the process's descriptors for good."""
    target = await expand.text(scope, redirect.word)
    try:
        match redirect.op:
            case "<<":
                _connect(process, redirect.fd, Source(to_bytes(target)))
            case "<<<":
                _connect(process, redirect.fd, Source(to_bytes(target + "\n")))
            case ">&" | "<&" if target == "-":
                _connect(process, redirect.fd, None)
            case ">&" | "<&" if target.isdigit():
                _connect(process, redirect.fd, process.stream(int(target)))
            case ">&" | "&>" | "&>>":
                append = redirect.op == "&>>"
                stream = process.open(target, write=True, append=append, truncate=not append)
                _connect(process, 1, stream)
                _connect(process, 2, stream)
            case "<" | "<>":
                _connect(process, redirect.fd, process.open(target))
            case op:
                stream = process.open(target, write=True, append=op == ">>", truncate=op != ">>")
                _connect(process, redirect.fd, stream)
    except OSError as exc:
        verb = "create" if ">" in redirect.op else "open"
        raise CannotRedirect(f"cannot {verb} {target}: {exc.strerror}") from exc


def _connect(process: Process, fd: int, stream: Stream | None) -> None:
    old = process.fds.pop(fd, None)
    if stream is not None:
        process.fds[fd] = stream.hold()
    if old is not None:
        old.release()
