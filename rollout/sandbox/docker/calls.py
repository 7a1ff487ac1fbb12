"""Calls of the daemon from an event loop: each with a deadline, none of them able to hold it up.

A daemon that is unwell hangs, or answers in minutes. So a call runs in a thread and is waited for
until its deadline; what may pass is tried again a little later; and after a row of failures nobody
asks for a while, so that what waits does not make it worse.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rollout.aio import Deadline
from rollout.sandbox.docker.daemon import CALL_TIMEOUT_S, DaemonError

AT_ONCE = 3
"""More creates or removals at a time only make each of them slower."""
THREADS = 24
TRIES = 4
PAUSE_S = 0.2
"""Before the second try; doubled for each further one, and up to twice that by chance."""
BREAKER_FAILURES = 6
BREAKER_PAUSE_S = 5.0

T = TypeVar("T")


class Calls:
    """Belongs to one event loop."""

    def __init__(self, *, pause_s: float = PAUSE_S, breaker_pause_s: float = BREAKER_PAUSE_S):
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rollout-docker")
        self.making = asyncio.Semaphore(AT_ONCE)
        """Around what makes a container."""
        self.ending = asyncio.Semaphore(AT_ONCE)
        """Around what removes one; apart, for who fails to make one removes it."""
        self._pause_s = pause_s
        self._breaker_pause_s = breaker_pause_s
        self._failures = 0
        self._rests_until = Deadline.after(0)

    def close(self) -> None:
        """Whatever still hangs is left to its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """One try. DaemonError at the deadline; the call itself may go on behind it."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            async with asyncio.timeout(timeout_s):
                result = await asyncio.shield(work)
        except TimeoutError:
            work.add_done_callback(_forget)
            self._note(failed=True)
            raise _no_answer(timeout_s) from None
        except asyncio.CancelledError:
            work.add_done_callback(_forget)
            raise
        except DaemonError as exc:
            self._note(failed=exc.may_pass)
            raise
        self._note(failed=False)
        return result

    async def again(self, call: Callable[[], T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """As `run`, and again where it may have been a moment's trouble. For calls that may be
        made twice."""
        deadline = Deadline.after(timeout_s)
        return await self.repeated(
            lambda: self.run(call, timeout_s=max(deadline.left_s, 0.001)), timeout_s=timeout_s
        )

    async def repeated(self, work: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
        """Work of several calls, tried again likewise; none begins past `timeout_s`."""
        deadline = Deadline.after(timeout_s)
        pause_s = self._pause_s
        for left in reversed(range(TRIES)):
            try:
                return await work()
            except DaemonError as exc:
                if not exc.may_pass or not left or deadline.left_s < 2 * pause_s:
                    raise
            await asyncio.sleep(pause_s * random.uniform(1, 2))
            pause_s *= 2
        raise AssertionError("unreachable")

    def check_well(self) -> None:
        """DaemonError while the breaker is open: before work that somebody may put off."""
        if self._failures >= BREAKER_FAILURES and not self._rests_until.passed:
            error = DaemonError(
                f"the Docker daemon is unwell: {self._failures} calls in a row failed; nothing "
                f"more is asked of it for {self._rests_until.left_s:.1f} s"
            )
            error.may_pass = True
            raise error

    def _note(self, *, failed: bool) -> None:
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= BREAKER_FAILURES:
            self._rests_until = Deadline.after(self._breaker_pause_s)


def _no_answer(timeout_s: float) -> DaemonError:
    error = DaemonError(f"the Docker daemon gave no answer within {timeout_s:g} s")
    error.may_pass = True
    return error


def _forget(work: "asyncio.Future[T]") -> None:
    if not work.cancelled():
        work.exception()
