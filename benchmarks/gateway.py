"""What the gateway adds to a model call, with a thousand agents at it.

    python benchmarks/gateway.py [--agents 1000] [--think-s 4] [--seconds 60]

Agents live in a process of their own and talk HTTP. In turns they call an endpoint that answers
after 50 ms, directly, and the gateway over the scripted engine that takes as long. Each call sends
the whole conversation, which grows by 2 kB a turn; after ten turns a rollout ends and its row is
let go, and the next begins. Memory is that of the gateway's process, by minutes of the load.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil
from aiohttp import web
from rich.console import Console
from rich.table import Table

from rollout.aio import Deadline, collect_rarely
from rollout.gateway.base import Budget
from rollout.gateway.server import serve
from rollout.gateway.session import Session
from rollout.gateway.upstreams.scripted import ScriptedUpstream
from rollout.transcript import Transcript

LATENCY_S = 0.05
TURNS = 10
OBSERVED = "drwxr-xr-x 2 root root 4096 Jan  1 00:00 some-folder\n" * 40
SCRIPT = json.dumps({"rules": [{"turns": [{"run": "ls -la"}]}], "latency_s": LATENCY_S})
TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
GOAL_MS = 2.0


@dataclass
class Heard:
    """Of one way of calling."""

    name: str
    ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    memory_mb: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# ---------------------------------------------------------------- the agents, in their process


def be_agents(pipe: Connection, think_s: float, seconds: float) -> None:
    ports: list[int] = pipe.recv()
    pipe.send(asyncio.run(all_agents(ports, think_s, seconds)))


async def all_agents(ports: list[int], think_s: float, seconds: float) -> list[float]:
    until_s = time.monotonic() + seconds
    told = await asyncio.gather(*(one_agent(port, think_s, until_s) for port in ports))
    return [ms for each in told for ms in each]


async def one_agent(port: int, think_s: float, until_s: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told: list[float] = []
    messages: list[dict[str, object]] = []
    await asyncio.sleep(random.uniform(0, think_s))
    while time.monotonic() < until_s:
        if len(messages) >= 2 * TURNS or not messages:
            messages = [{"role": "user", "content": f"task {random.random()}"}]
        body = json.dumps({"model": "m", "messages": messages, "tools": [TOOL]}).encode()
        started = time.perf_counter()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        reply = json.loads(await reader.readexactly(length))
        told.append((time.perf_counter() - started) * 1000)
        message = reply["choices"][0]["message"]
        call_id = message["tool_calls"][0]["id"]
        messages += [message, {"role": "tool", "tool_call_id": call_id, "content": OBSERVED}]
        await asyncio.sleep(random.uniform(0.5, 1.5) * think_s)
    writer.close()
    return told


# ---------------------------------------------------------------- who answers


@asynccontextmanager
async def an_endpoint(agents: int) -> AsyncIterator[list[int]]:
    """One server for all, which answers the same each time."""
    call = {"id": "call_0", "type": "function"}
    function = {"name": "bash", "arguments": '{"command": "ls -la"}'}
    message = {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]}
    reply = {"id": "x", "choices": [{"message": message, "finish_reason": "tool_calls"}]}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(LATENCY_S)
        return web.json_response(reply)

    server = web.Server(answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, backlog=2048)
    try:
        yield [listening.sockets[0].getsockname()[1]] * agents
    finally:
        listening.close()
        await server.shutdown(1.0)


class Rollouts:
    """What a worker has of each agent: a session, ended and begun anew as its rollouts are."""

    def __init__(self, upstream: ScriptedUpstream, number: int) -> None:
        self._upstream, self._number = upstream, number
        self.begin()

    def begin(self) -> None:
        self._calls = 0
        self._session = Session(
            self._upstream,
            session_id=str(self._number),
            model="m",
            budget=Budget(),
            price=None,
            deadline=Deadline.after(3600),
            transcript=Transcript(lambda _: None),
        )

    def __getattr__(self, name: str) -> object:
        if name == "complete":
            self._calls += 1
            if self._calls > TURNS:
                self.begin()
        return getattr(self._session, name)


@asynccontextmanager
async def the_gateway(agents: int) -> AsyncIterator[list[int]]:
    upstream = ScriptedUpstream("m", SCRIPT)
    ports = []
    async with AsyncExitStack() as serving:
        for number in range(agents):
            sock = socket.create_server(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
            session: Session = Rollouts(upstream, number)  # type: ignore[assignment]
            await serving.enter_async_context(serve(session, sock))
        yield ports


async def measure(name: str, answering: object, chosen: argparse.Namespace) -> Heard:
    heard = Heard(name)
    ours, theirs = multiprocessing.Pipe()
    settings = (theirs, chosen.think_s, chosen.seconds)
    agents = multiprocessing.get_context("spawn").Process(target=be_agents, args=settings)
    agents.start()
    try:
        async with answering(chosen.agents) as ports:  # type: ignore[operator]
            ours.send(ports)
            started = time.monotonic()
            while not await asyncio.to_thread(ours.poll, chosen.seconds / 12):
                heard.memory_mb.append(psutil.Process().memory_info().rss / 2**20)
            heard.ms, heard.seconds = ours.recv(), time.monotonic() - started
    finally:
        agents.join()
    return heard


def report(direct: Heard, gateway: Heard, agents: int, console: Console) -> None:
    table = Table(f"{agents} agents", direct.name, gateway.name, "added")
    for label, share in (("p50, ms", 0.5), ("p99, ms", 0.99)):
        one, other = direct.at(share), gateway.at(share)
        table.add_row(label, f"{one:.2f}", f"{other:.2f}", f"{other - one:.2f}")
    rates = [len(heard.ms) / heard.seconds for heard in (direct, gateway)]
    table.add_row("calls a second", *(f"{rate:,.0f}" for rate in rates), "")
    table.add_row("calls", *(f"{len(heard.ms):,}" for heard in (direct, gateway)), "")
    console.print(table)
    added_ms = gateway.at(0.5) - direct.at(0.5)
    console.print(
        f"added at p50: {added_ms:.2f} ms, goal {GOAL_MS:g}: "
        f"{'met' if added_ms <= GOAL_MS else 'missed'}"
    )
    memory = gateway.memory_mb
    third = len(memory) // 3
    growth = statistics.mean(memory[-third:]) / statistics.mean(memory[third:-third])
    console.print(
        f"memory of the gateway's process, MB: {', '.join(f'{mb:.0f}' for mb in memory)}; "
        f"last third over the middle one: {growth:.2f}"
    )


async def run(chosen: argparse.Namespace, console: Console) -> None:
    collect_rarely()  # as a worker does
    direct = await measure("the endpoint itself", an_endpoint, chosen)
    gateway = await measure("through the gateway", the_gateway, chosen)
    report(direct, gateway, chosen.agents, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--think-s", type=float, default=4.0, help="between two calls of an agent")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each way of calling")
    asyncio.run(run(parser.parse_args(), Console(width=140)))


if __name__ == "__main__":
    main()
