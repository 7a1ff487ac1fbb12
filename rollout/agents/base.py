"""What acts in a sandbox."""

from typing import Protocol

from rollout.aio import Deadline
from rollout.sandbox.base import Sandbox
from rollout.types import AgentStep, Event, Message, StopReason, Task


class Recorder(Protocol):
    """Where an agent tells what it does; kept even when the agent is cut off."""

    def message(self, message: Message) -> int:
        """Append a message; its index."""

    def step(self, step: AgentStep) -> None: ...

    def event(self, kind: str, detail: str) -> Event: ...


class Model(Protocol):
    """A way to the model endpoint. The gateway fills this in; agents without a model ignore it."""

    @property
    def name(self) -> str: ...


class Agent(Protocol):
    """Works on one task in one sandbox until it is done or the deadline passes.

    An escape is classified by its type: AgentError and anything untyped ends as `agent_error`
    (scored), OutOfMemory as `out_of_memory` (scored), ModelError as `model_error`, any other
    SandboxLost as `sandbox_lost`.
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
