"""From a host and port to a connection: the rules are asked first, of the name and of each address.

A name is looked up once, and what is connected to is one of the addresses that were checked. So it
does not matter what a name server says the next time.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rollout.egress.addresses import Address, read_address
from rollout.egress.head import Request
from rollout.egress.rules import Rules

Streams = tuple[StreamReader, StreamWriter]
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A name to all of its addresses; OSError if it has none."""
Dial = Callable[[str, int], Awaitable[Streams]]
"""To an address, never a name, and a port; OSError if nobody answers."""
ADDRESSES_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one sandbox; each connection has one request, or one tunnel."""

    connections: int = 64
    """At once; who comes later waits."""
    lookups: int = 4
    """At once."""
    head_bytes: int = 64 << 10
    head_s: float = 30.0
    lookup_s: float = 15.0
    connect_s: float = 15.0
    """Of each address."""
    idle_s: float = 300.0
    """Without a byte either way."""
    total_s: float = 4 * 3600.0


USUAL = Limits()


class Refusal(Exception):
    """Not to be let out; `why` is for the log, which may know more than the caller should."""

    def __init__(self, why: str, told: str = "") -> None:
        super().__init__(told or why)
        self.why = why


class Failure(Exception):
    """It might have been let out, had somebody been there; `status` is the answer."""

    def __init__(self, why: str, status: int = 502) -> None:
        super().__init__(why)
        self.status = status


class Reach:
    """Of one sandbox."""

    def __init__(self, rules: Rules, *, resolve: Resolve, dial: Dial, limits: Limits) -> None:
        self._rules = rules
        self._resolve = resolve
        self._dial = dial
        self._limits = limits
        self._lookups = asyncio.Semaphore(limits.lookups)
        self._looking: set[asyncio.Future[Sequence[str]]] = set()

    def close(self) -> None:
        """Wait for no lookup any more."""
        for looking in list(self._looking):
            looking.cancel()

    async def connected(self, request: Request) -> tuple[str, Streams]:
        """A connection to an address that the rules were asked of, and that address. Refusal and
        Failure tell why there is none."""
        host, port = request.host, request.port
        if why := self._rules.refuses(host, port):
            raise Refusal(why)
        addresses = [host.address] if host.address else await self._looked_up(host.name)
        for address in addresses:
            if why := self._rules.refuses_address(address, port):
                raise Refusal(f"{why} ({address})", "an address of it is closed")
        error = ""
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    return str(address), await self._dial(str(address), port)
            except TimeoutError:
                error = error or f"no answer within {self._limits.connect_s:g} s"
            except OSError as exc:
                error = error or exc.strerror or str(exc)
        raise Failure(error)

    async def _looked_up(self, name: str) -> list[Address]:
        """A lookup that hangs keeps its place: a thread cannot be ended."""
        limit_s = self._limits.lookup_s
        late = Failure(f"its name was not found within {limit_s:g} s", 504)
        try:
            async with asyncio.timeout(limit_s):
                await self._lookups.acquire()
        except TimeoutError:
            raise late from None
        looking = asyncio.ensure_future(self._resolve(name))
        self._looking.add(looking)
        looking.add_done_callback(self._looked)
        done, _ = await asyncio.wait({looking}, timeout=limit_s)
        if not done:
            raise late
        try:
            found = [read_address(text) for text in looking.result()]
        except (OSError, ValueError):
            raise Failure("its name is not found") from None
        if not found:
            raise Failure("its name has no address")
        return list(dict.fromkeys(found))

    def _looked(self, looking: "asyncio.Future[Sequence[str]]") -> None:
        self._looking.discard(looking)
        self._lookups.release()
        if not looking.cancelled():
            looking.exception()  # of one that came too late nobody asks
