"""What the tiny policy says is spelled the same way whenever it is read again."""

import json
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rollout.learning.tasks import ShellTasks
from rollout.learning.words import (
    ASSISTANT,
    END,
    ENDED,
    SAID,
    UNKNOWN,
    command_of,
    ids_of,
    prompt_of,
)

SAID_TWICE = st.lists(st.sampled_from(SAID), min_size=1, max_size=6)


@given(SAID_TWICE)
def test_a_command_is_read_as_the_words_it_was_made_of(ids: list[int]) -> None:
    assert ids_of(command_of(ids)) == ids


def test_that_holds_for_every_two_words() -> None:
    assert all(ids_of(command_of(pair)) == list(pair) for pair in product(SAID, SAID))


@given(st.lists(st.tuples(SAID_TWICE, st.booleans(), st.text(max_size=40)), max_size=4))
def test_a_conversation_begins_with_all_that_was_said_before(
    turns: list[tuple[list[int], bool, str]],
) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "shell"},
        {"role": "user", "content": "read a.txt : write its text to out"},
    ]
    before = prompt_of(messages)
    for number, (ids, ended, output) in enumerate(turns):
        arguments = json.dumps({"command": command_of(ids)})
        call = {"id": f"call-{number}{ENDED if ended else ''}", "type": "function"}
        call["function"] = {"name": "bash", "arguments": arguments}  # type: ignore[assignment]
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": output},
        ]
        sampled = [*before, *ids, *([END] if ended else [])]
        before = prompt_of(messages)
        assert before[: len(sampled)] == sampled
        assert before[-1] == ASSISTANT


def test_every_word_of_the_instructions_is_known() -> None:
    for task in ShellTasks(count=30).load():
        assert UNKNOWN not in ids_of(task.instruction), task.instruction
