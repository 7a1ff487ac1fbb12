"""An arm's model in a worker, and one rollout's way to it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rollout.aio import Deadline
from rollout.gateway.base import ModelCall, ModelReply, Upstream
from rollout.gateway.capture import TOKENS
from rollout.gateway.policy import PolicyVersion
from rollout.gateway.sequences import SequenceBuilder
from rollout.gateway.server import serve
from rollout.gateway.session import Session
from rollout.gateway.settings import ModelPlan
from rollout.sandbox.base import Sandbox
from rollout.transcript import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelService:
    """One arm's model, as a worker offers it to each of its episodes."""

    plan: ModelPlan
    upstream: Upstream
    version: Callable[[], int | None] = lambda: None
    """Of the weights, as the trainer told it last."""

    def open(self, session_id: str, deadline: Deadline, transcript: Transcript) -> Session:
        """A rollout's calls, none made yet."""
        conf = self.plan.conf
        captures = conf.capture == TOKENS
        return Session(
            self.upstream,
            session_id=session_id,
            model=conf.name,
            budget=self.plan.limits,
            price=self.plan.price,
            deadline=deadline,
            transcript=transcript,
            sequences=SequenceBuilder(realign_tokens=conf.realign_tokens) if captures else None,
            policy=PolicyVersion(
                None if conf.policy_version_file is None else Path(conf.policy_version_file),
                told=self.version,
            ),
        )


class ModelAccess:
    """What an agent gets: see `agents.base.Model`."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = name

    async def complete(self, call: ModelCall) -> ModelReply:
        return await self._session.complete(call)

    @asynccontextmanager
    async def listen(self, sandbox: Sandbox, port: int = 0) -> AsyncIterator[int]:
        sock = await sandbox.listen(port)
        number: int = sock.getsockname()[1]
        async with serve(self._session, sock):
            yield number
