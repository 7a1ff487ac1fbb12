"""A worker's part of an endpoint: never more at once, never more tokens, nobody forgotten."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.config import BudgetConf, ModelConf
from rollout.errors import ModelError
from rollout.gateway.base import ModelCall, ModelReply, Usage
from rollout.gateway.limits import WINDOW_S, Allowance, Allowances
from rollout.gateway.settings import model_record
from rollout.types import Message

CALL = ModelCall(dialect="direct", model="m", messages=())
REPLY = ModelReply(message=Message(role="assistant"), finish_reason="stop")


class Counting:
    """An upstream that notes how many calls it has at once."""

    def __init__(self, *, fails: bool = False) -> None:
        self.running = self.most = self.calls = 0
        self.order: list[str] = []
        self.fails = fails

    async def __aenter__(self) -> "Counting":
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        self.order.append(session_id)
        self.running += 1
        self.most = max(self.most, self.running)
        self.calls += 1
        await asyncio.sleep(0.005)
        self.running -= 1
        if self.fails:
            raise ModelError("no")
        return replace(REPLY, usage=Usage(prompt_tokens=90, completion_tokens=10))

    def forget(self, session_id: str) -> None: ...


def conf(**more: Any) -> ModelConf:
    return ModelConf(kind="openai", name="m", urls=["http://127.0.0.1:1/v1"], **more)


def whole() -> Allowances:
    """Of the only worker."""
    allowances = Allowances()
    allowances.divide(1.0, 1)
    return allowances


async def test_calls_at_once_are_divided_among_workers() -> None:
    allowances, served = Allowances(), Counting()
    limited = allowances.limited(served, conf(max_concurrent=8))
    for workers, most in ((1, 8), (2, 4), (3, 2), (100, 1)):
        served.most = 0
        allowances.divide(1 / workers, workers)
        await asyncio.gather(*(limited.complete(CALL, "s") for _ in range(40)))
        assert served.most == most


async def test_first_come_first_served_also_while_some_are_cancelled() -> None:
    served = Counting()
    limited = whole().limited(served, conf(max_concurrent=1))
    calls = [asyncio.create_task(limited.complete(CALL, str(n))) for n in range(30)]
    await asyncio.sleep(0)
    for call in calls[1::3]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert served.order == [str(n) for n in range(30) if n % 3 != 1]
    assert served.most == 1


async def test_a_call_that_fails_makes_room_for_the_next() -> None:
    served = Counting(fails=True)
    limited = whole().limited(served, conf(max_concurrent=2))
    failed = await asyncio.gather(
        *(limited.complete(CALL, "s") for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(each, ModelError) for each in failed)
    assert (served.calls, served.most) == (10, 2)


async def test_those_who_wait_hear_of_a_larger_part() -> None:
    allowances, served = Allowances(), Counting()
    limited = allowances.limited(served, conf(max_concurrent=8))
    allowances.divide(1 / 8, 8)
    calls = [asyncio.create_task(limited.complete(CALL, "s")) for _ in range(40)]
    await asyncio.sleep(0.002)
    allowances.divide(1.0, 1)
    await asyncio.gather(*calls)
    assert served.most == 8


async def test_arms_of_one_endpoint_wait_in_one_line() -> None:
    allowances, served = whole(), Counting()
    one = allowances.limited(served, conf(max_concurrent=2))
    other = allowances.limited(served, conf(max_concurrent=2, sampling={"temperature": 0.5}))
    await asyncio.gather(*(each.complete(CALL, "s") for each in (one, other) for _ in range(10)))
    assert served.most == 2
    assert allowances.limited(served, conf()) is served


@pytest.mark.parametrize(("kind", "most"), [("anthropic", 2), ("litellm", 4)])
async def test_without_urls_two_names_are_one_endpoint_where_the_kind_has_one_address(
    kind: str, most: int
) -> None:
    allowances, served = whole(), Counting()
    models = [ModelConf(kind=kind, name=name, max_concurrent=2) for name in ("a/x", "b/x")]
    lines = [allowances.limited(served, model) for model in models]
    await asyncio.gather(*(each.complete(CALL, "s") for each in lines for _ in range(10)))
    assert served.most == most


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(
    tokens=st.lists(st.integers(1, 2_000), min_size=1, max_size=60),
    pauses_s=st.lists(st.floats(0.0, 30.0), min_size=60, max_size=60),
    workers=st.integers(1, 9),
)
def test_no_more_tokens_than_the_rate_allows(
    tokens: list[int], pauses_s: list[float], workers: int
) -> None:
    """Whatever is asked when: a call may go only while all before it used less than time gave."""
    clock = Clock()
    allowance = Allowance(max_concurrent=None, tokens_per_minute=60_000, clock_s=clock)
    allowance.divide(1 / workers, workers)
    rate = 60_000 / 60 / workers
    used = 0
    for count, pause_s in zip(tokens, pauses_s, strict=False):
        clock.now_s += pause_s
        clock.now_s += allowance._wait_s()
        assert allowance._wait_s() <= 0.001
        assert used < rate * (clock.now_s + WINDOW_S) + 1e-6
        used += count
        allowance.used(count)


async def test_calls_wait_for_tokens() -> None:
    clock = Clock()
    served = Counting()
    allowance = Allowance(max_concurrent=None, tokens_per_minute=600, clock_s=clock)
    allowances = whole()
    allowance.divide(1.0, 1)
    clock.now_s += 60.0  # more than it saves up
    allowances._of["openai", "http://127.0.0.1:1/v1", None, 600] = allowance
    limited = allowances.limited(served, conf(tokens_per_minute=600))
    await limited.complete(CALL, "s")  # 100 tokens, and there were 100
    waiting = asyncio.create_task(limited.complete(CALL, "s"))
    await asyncio.sleep(0.05)
    assert served.calls == 1
    clock.now_s += 1.0  # ten more
    await waiting
    assert served.calls == 2


@pytest.mark.parametrize("key", ["max_concurrent", "tokens_per_minute"])
def test_they_change_no_result(key: str) -> None:
    assert model_record(conf(), BudgetConf()) == model_record(conf(**{key: 5}), BudgetConf())


@pytest.mark.parametrize("limit", [{"max_concurrent": 2}, {"tokens_per_minute": 600}])
async def test_nothing_goes_before_a_part_was_given(limit: dict[str, int]) -> None:
    allowances, served = Allowances(), Counting()
    limited = allowances.limited(served, conf(**limit))
    waiting = asyncio.create_task(limited.complete(CALL, "s"))
    await asyncio.sleep(0.05)
    assert served.calls == 0
    allowances.divide(1.0, 1)
    await waiting


async def test_it_says_what_it_may_be_using() -> None:
    allowances, served = whole(), Counting()
    limited = allowances.limited(served, conf(max_concurrent=8))
    calls = [asyncio.create_task(limited.complete(CALL, "s")) for _ in range(8)]
    await asyncio.sleep(0.002)
    allowances.divide(0.25, 4)
    assert allowances.using == 1.0
    await asyncio.gather(*calls)
    assert allowances.using == 0.25


async def test_where_there_are_more_workers_than_calls_their_parts_are_left_alone() -> None:
    """Else those that run one call each would leave no part, and no tokens, to anybody."""
    allowances, served = Allowances(), Counting()
    limited = allowances.limited(served, conf(max_concurrent=2, tokens_per_minute=60_000))
    allowances.divide(0.2, 5)
    calls = [asyncio.create_task(limited.complete(CALL, "s")) for _ in range(3)]
    await asyncio.sleep(0.003)
    assert served.running == 1
    assert allowances.using == 0.2
    await asyncio.gather(*calls)
