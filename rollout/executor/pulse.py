"""A worker's heartbeat, from a thread of its own: a busy event loop never loses a lease.

The same thread is the watchdog. A worker whose coordinator or parent is gone is told to stop, and
when it does not manage to within a grace, the process ends itself: what it leaves is swept by
whoever starts next, and its late writes are fenced.
"""

import os
import threading
import time
from collections.abc import Callable

from rollout.errors import RolloutError
from rollout.executor.base import Heartbeat, HeartbeatReply

GRACE_S = 20.0
"""From being told to stop to the end of the process, if closing in order hangs."""

SILENCE_S = 30.0
"""Heartbeats may fail for this long before the coordinator counts as gone."""

EXIT_ORPHANED = 70


class Pulse:
    """Sends a beat every `every_s` and hands each answer to `deliver`, until stopped.

    All three callables run in the pulse's thread and must be safe there. `send` raises a
    RolloutError when a beat did not get through.
    """

    def __init__(
        self,
        *,
        beat: Callable[[], Heartbeat],
        send: Callable[[Heartbeat], HeartbeatReply],
        deliver: Callable[[HeartbeatReply], None],
        every_s: float,
    ) -> None:
        self._beat = beat
        self._send = send
        self._deliver = deliver
        self._every_s = every_s
        self._parent = os.getppid()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further beat is sent once this returns, unless one hangs in the transport."""
        self._done.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        heard_s = time.monotonic()
        while True:
            try:
                reply = self._send(self._beat())
                heard_s = time.monotonic()
            except RolloutError:
                reply = HeartbeatReply()
            if os.getppid() != self._parent or time.monotonic() - heard_s > SILENCE_S:
                reply = HeartbeatReply(stop=True)
            self._deliver(reply)
            if reply.stop:
                self._end_within_grace()
                return
            if self._done.wait(self._every_s):
                return

    def _end_within_grace(self) -> None:
        """Stop beating; only see to it that this process ends."""
        if not self._done.wait(GRACE_S):
            os._exit(EXIT_ORPHANED)
