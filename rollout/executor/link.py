"""The link between a driver and one of its worker processes: two inherited socket pairs.

A frame is a length of four bytes and JSON. One pair carries the worker's calls, many at a time;
the other carries its heartbeats, one at a time, from a thread. Nothing listens anywhere, so there
is nothing to guard and nothing left behind; when one side dies the other sees the end at once.
"""

import asyncio
import inspect
import itertools
import json
import socket
import struct
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout import errors
from rollout.dataset.base import CommitReply, CommitRequest
from rollout.errors import Fenced, RolloutError
from rollout.executor.base import Coordinator, Heartbeat, HeartbeatReply, LeaseReply, RunPlan
from rollout.executor.codec import pack, unpack
from rollout.types import Attempt

_LENGTH = struct.Struct(">I")

REPLY_TIMEOUT_S = 30.0
"""For one heartbeat, there and back."""


@dataclass(frozen=True, slots=True)
class _Method:
    """The types that cross for one call."""

    hints: Mapping[str, Any]
    returns: Any


def _method(function: Callable[..., Any]) -> _Method:
    hints = typing.get_type_hints(function)
    returns = hints.pop("return")
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return _Method({name: hints[name] for name in names}, returns)


METHODS: Mapping[str, _Method] = {
    "plan": _Method({}, RunPlan),
    **{
        name: _method(function)
        for name, function in vars(Coordinator).items()
        if inspect.iscoroutinefunction(function)
    },
}
"""Everything a worker process may call: the Coordinator's contract, and its plan."""


# ---------------------------------------------------------------- frames


def encode(message: Any) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


async def read_message(reader: asyncio.StreamReader) -> Any:
    """The next message; EOFError when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        raise EOFError("the other side of the link is gone") from exc


def _error_from(told: Mapping[str, str]) -> RolloutError:
    kind = getattr(errors, told["type"], RolloutError)
    known = isinstance(kind, type) and issubclass(kind, RolloutError)
    return kind(told["message"]) if known else RolloutError(f"{told['type']}: {told['message']}")


# ---------------------------------------------------------------- the driver's side


class LinkServer:
    """Answers one worker's calls out of `coordinator`, each as soon as it can."""

    def __init__(self, coordinator: Coordinator, plan: RunPlan) -> None:
        self._coordinator = coordinator
        self._plan = plan

    async def serve(self, sock: socket.socket) -> None:
        """Until the worker hangs up."""
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            async with asyncio.TaskGroup() as calls:
                while True:
                    try:
                        message = await read_message(reader)
                    except EOFError:
                        break
                    calls.create_task(self._answer(message, writer))
        finally:
            writer.close()

    async def _answer(self, message: Any, writer: asyncio.StreamWriter) -> None:
        reply: dict[str, Any] = {"call": message["call"]}
        try:
            reply["value"] = pack(await self._call(message["method"], message["args"]))
        except RolloutError as exc:
            reply["error"] = {"type": type(exc).__name__, "message": str(exc)}
        if not writer.is_closing():
            writer.write(encode(reply))

    async def _call(self, name: str, args: Mapping[str, Any]) -> Any:
        if name == "plan":
            return self._plan
        hints = METHODS[name].hints
        call = getattr(self._coordinator, name)
        return await call(**{key: unpack(hints[key], value) for key, value in args.items()})


# ---------------------------------------------------------------- the worker's side


class LinkClient:
    """The coordinator as a worker process sees it. Implements `executor.base.Coordinator`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, sock: socket.socket) -> "LinkClient":
        return cls(*await asyncio.open_connection(sock=sock))

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()

    async def plan(self) -> RunPlan:
        """The run's plan without its specs, which come with the leases."""
        plan: RunPlan = await self._call("plan")
        return plan

    async def register(self, worker: str, node: str, pid: int) -> int:
        epoch: int = await self._call("register", worker=worker, node=node, pid=pid)
        return epoch

    async def lease(self, worker: str, count: int) -> LeaseReply:
        reply: LeaseReply = await self._call("lease", worker=worker, count=count)
        return reply

    async def attempt_failed(self, worker: str, trajectory_id: str, attempt: Attempt) -> None:
        await self._call(
            "attempt_failed", worker=worker, trajectory_id=trajectory_id, attempt=attempt
        )

    async def give_back(self, worker: str, trajectory_ids: Sequence[str]) -> None:
        await self._call("give_back", worker=worker, trajectory_ids=list(trajectory_ids))

    async def commit(self, request: CommitRequest) -> CommitReply:
        reply: CommitReply = await self._call("commit", request=request)
        return reply

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        reply: HeartbeatReply = await self._call("heartbeat", beat=beat)
        return reply

    async def leave(self, worker: str, error: str = "") -> None:
        await self._call("leave", worker=worker, error=error)

    async def _call(self, name: str, **args: Any) -> Any:
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        if self._reading.done():
            raise Fenced(f"the coordinator is gone; {name} could not be asked")
        message = {"call": number, "method": name, "args": {k: pack(v) for k, v in args.items()}}
        self._writer.write(encode(message))
        try:
            return unpack(METHODS[name].returns, await answer)
        finally:
            del self._calls[number]

    async def _read(self) -> None:
        while True:
            try:
                message = await read_message(self._reader)
            except EOFError:
                break
            answer = self._calls.get(message["call"])
            if answer is None or answer.done():
                continue
            if "error" in message:
                answer.set_exception(_error_from(message["error"]))
            else:
                answer.set_result(message["value"])
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(Fenced("the coordinator is gone; whoever is next decides"))


class BeatClient:
    """Sends heartbeats from a thread, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(REPLY_TIMEOUT_S)

    def __call__(self, beat: Heartbeat) -> HeartbeatReply:
        message = {"call": 0, "method": "heartbeat", "args": {"beat": pack(beat)}}
        try:
            self._sock.sendall(encode(message))
            (length,) = _LENGTH.unpack(self._read_exactly(_LENGTH.size))
            answer = json.loads(self._read_exactly(length))
        except (OSError, EOFError) as exc:
            raise RolloutError(f"heartbeat did not get through: {exc}") from exc
        if "error" in answer:
            raise _error_from(answer["error"])
        reply: HeartbeatReply = unpack(HeartbeatReply, answer["value"])
        return reply

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._sock.recv(size - len(data))
            if not chunk:
                raise EOFError("the driver is gone")
            data += chunk
        return bytes(data)
