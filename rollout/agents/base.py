"""What acts in a sandbox."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from rollout.aio import Deadline
from rollout.gateway.base import ModelCall, ModelReply
from rollout.sandbox.base import Sandbox
from rollout.types import AgentStep, Event, Message, StopReason, Task


class Recorder(Protocol):
    """Where an agent tells what it does; kept even when the agent is cut off."""

    def message(self, message: Message) -> int:
        """Append a message; its index."""

    def step(self, step: AgentStep) -> None: ...

    def event(self, kind: str, detail: str) -> Event: ...

    def artifact(self, name: str, data: bytes) -> bool:
        """Keep bytes beside the row, under a name of one's own; False where there are too many."""


class Model(Protocol):
    """The way to the arm's model endpoint, for one rollout. All that passes is on record."""

    @property
    def name(self) -> str: ...

    async def complete(self, call: ModelCall) -> ModelReply:
        """Ask from this side. CallRefused where a budget is used up or the prompt does not fit;
        ModelError where the endpoint failed for good."""

    def listen(self, sandbox: Sandbox, port: int = 0) -> AbstractAsyncContextManager[int]:
        """Answer inside the sandbox while the block runs: on its 127.0.0.1, at the port given
        out. It speaks all dialects of the gateway, to any name of a model and any key."""


class Agent(Protocol):
    """Works on one task in one sandbox until it is done or the deadline passes.

    An escape is classified by its type: AgentError and anything untyped ends as `agent_error`
    (scored), OutOfMemory as `out_of_memory` (scored), ModelError as `model_error`, any other
    SandboxLost as `sandbox_lost`. Where the model's budget or context ended it, that is what
    the rollout ends as, however the agent took it.

    It may tell more of itself before anything runs: `needs_model`, true if it cannot work without
    one; `features`, which of an engine's it needs; `mounts()`, what the blueprint of its tasks must
    mount; `problems(task)`, why it cannot work on a task.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason: ...
