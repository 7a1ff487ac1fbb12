"""An event loop in a thread of its own, for callers that have none."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from rollout.errors import RolloutError

T = TypeVar("T")


class LoopThread:
    """From `start` to `close`; the thread ends with the process in any case."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def close(self) -> None:
        """Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def call(self, asked: Coroutine[Any, Any, T]) -> T:
        """Its result, once it is there. RolloutError where the loop does not run."""
        return self.begin(asked).result()

    def begin(self, asked: Coroutine[Any, Any, T]) -> "Future[T]":
        """The same without waiting."""
        if not self.runs:
            asked.close()
            raise RolloutError(f"{self._name} is not open")
        return asyncio.run_coroutine_threadsafe(asked, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
