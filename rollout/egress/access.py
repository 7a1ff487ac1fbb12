"""One sandbox's way out while its agent works: the proxy, and the variables that lead to it."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache

from rollout.egress.log import EgressLog, Tell
from rollout.egress.proxy import Proxy
from rollout.egress.reach import Dial, Resolve, Streams
from rollout.egress.relay import PIECE_BYTES
from rollout.egress.rules import NONE, Rules
from rollout.sandbox.base import Sandbox
from rollout.sandbox.skeleton import HOSTNAME

LOOKUP_THREADS = 16
"""Of a worker, and nobody else's: name servers may take as long as they like."""
LED = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
NOT_LED = ("NO_PROXY", "no_proxy")
OWN = f"127.0.0.1,localhost,::1,{HOSTNAME}"
"""Names of the sandbox itself."""

log = logging.getLogger(__name__)


async def resolve(name: str) -> Sequence[str]:
    """All addresses of a name, as this machine knows them."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _addresses, name)


async def dial(address: str, port: int) -> Streams:
    """Nothing is looked up: what is no address fails."""
    numeric = socket.AI_NUMERICHOST
    return await asyncio.open_connection(address, port, limit=PIECE_BYTES, flags=numeric)


@asynccontextmanager
async def egress(
    sandbox: Sandbox, tell: Tell, *, resolve: Resolve = resolve, dial: Dial = dial
) -> AsyncIterator[None]:
    """While the block runs, processes that start in the sandbox find the proxy by their variables.

    Its network stays empty: what does not ask the proxy reaches nothing. With `network: none`
    there is no proxy either. `tell` hears of each request, as kind and detail of an event.
    SandboxError where the sandbox cannot listen.
    """
    spec = sandbox.spec
    if spec.network == NONE:
        yield
        return
    rules = Rules(spec.network, spec.allowed_hosts)
    proxy = Proxy(rules, EgressLog(tell), resolve=resolve, dial=dial)
    sock = await sandbox.listen(0)
    async with proxy.serving(sock):
        sandbox.set_env(variables(sock.getsockname()[1]))
        try:
            yield
        finally:
            sandbox.set_env({})


def logged(kind: str, detail: str) -> None:
    """For sandboxes without a row to tell it in."""
    log.info("%s: %s", kind, detail)


def variables(port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {**dict.fromkeys(LED, url), **dict.fromkeys(NOT_LED, OWN)}


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="egress-name")


def _addresses(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
