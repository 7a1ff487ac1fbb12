"""What one episode writes down as it goes, kept whatever happens next."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rollout.types import AgentStep, Event, Message, Phase

CLIP_CHARS = 16_000
"""Longer text is kept in a row by its head and tail only."""
ARTIFACTS_LIMIT_BYTES = 64 << 20
ARTIFACTS_LIMIT = 1_000
"""Of one attempt, as what stands beside its row."""


def now() -> datetime:
    return datetime.now(UTC)


def clip(text: str, limit_chars: int = CLIP_CHARS) -> str:
    """Head and tail of a long text, saying how much was left out."""
    if len(text) <= limit_chars:
        return text
    half = limit_chars // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


class Transcript:
    """Messages, steps, events and stage times of one attempt. Agents see it as their Recorder."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.started_at = now()
        self.messages: list[Message] = []
        self.steps: list[AgentStep] = []
        self.events: list[Event] = []
        self.integrity: list[str] = []
        self.phases: list[Phase] = []
        self.artifacts: dict[str, bytes] = {}
        self._artifact_bytes = 0
        self._on_phase = on_phase

    def message(self, message: Message) -> int:
        self.messages.append(message)
        return len(self.messages) - 1

    def step(self, step: AgentStep) -> None:
        self.steps.append(step)

    def event(self, kind: str, detail: str, *, at: datetime | None = None) -> Event:
        event = Event(at=at or now(), kind=kind, detail=clip(detail, 2_000))
        self.events.append(event)
        return event

    def artifact(self, name: str, data: bytes) -> bool:
        """Keep bytes beside the row, under this name or one like it; False, and an event for the
        first, once there are too many."""
        full = len(self.artifacts) >= ARTIFACTS_LIMIT
        if full or self._artifact_bytes + len(data) > ARTIFACTS_LIMIT_BYTES:
            if not any(event.kind == "artifacts_left_out" for event in self.events):
                self.event("artifacts_left_out", f"{name}, {len(data)} bytes, and what came after")
            return False
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-100:] or "artifact"
        stem, number = plain, 1
        while plain in self.artifacts:
            number += 1
            plain = f"{number}-{stem}"
        self.artifacts[plain] = data
        self._artifact_bytes += len(data)
        return True

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a stage; it is on record however the block ends."""
        self._on_phase(name)
        start, clock = now(), time.perf_counter()
        try:
            yield
        finally:
            ms = (time.perf_counter() - clock) * 1000
            self.phases.append(Phase(name=name, start=start, ms=ms))
