"""The vocabulary of the tiny policy, and how a conversation becomes ids.

What it can say are words of a shell, so that a random policy writes a useful command now and then.
A conversation's ids begin with those of every earlier turn of it: nothing is ever spelled
differently the second time, so its tokens stand in one sequence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

PAD, END, UNKNOWN, SYSTEM, USER, ASSISTANT, TOOL = range(7)
MARKS = ("<pad>", "<end>", "<unknown>", "<system>", "<user>", "<assistant>", "<tool>")

FILES = tuple(f"{letter}.txt" for letter in "abcdef")
VERBS = (
    *("cat >out ", "wc -l >out ", "find >out -name ", "mv {,new-}", "sed -i s/red/blue/ "),
    *("ls ", "rm ", "touch "),
)
"""Begin a command; a file name ends it. Bash makes two names of `{,new-}a.txt`."""
SAYS = (*VERBS, *FILES)

HEARS = (
    *("read", "count", "the", "lines", "of", "find", "rename", "to", "new-", "edit", "red"),
    *("write", "its", "text", "path", "number", "becomes", "blue", "out", ":", ".", "[", "]"),
    *("exit", "code", "0", "1"),
)
WORDS = (*MARKS, *SAYS, *HEARS)
ID = {word: number for number, word in enumerate(WORDS)}
SAID = tuple(ID[word] for word in SAYS)

_SPLIT = re.compile(
    "|".join(map(re.escape, sorted((*SAYS, *HEARS), key=len, reverse=True))) + r"|\S+?(?=\s|\W|$)"
)
_ROLES = {"system": SYSTEM, "user": USER, "tool": TOOL}


def ids_of(text: str) -> list[int]:
    """The longest word that fits, again and again; blanks between words are nothing."""
    return [ID.get(word, UNKNOWN) for word in _SPLIT.findall(text)]


def command_of(ids: Sequence[int]) -> str:
    """What the policy has said, as a shell reads it; without its end."""
    return "".join(WORDS[number] for number in ids if number != END)


def prompt_of(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The ids of a conversation in the words of OpenAI's chat, up to where the policy goes on."""
    ids: list[int] = []
    for message in messages:
        role = message["role"]
        if role == "assistant":
            ids += [ASSISTANT, *_said(message)]
        else:
            ids += [_ROLES.get(role, USER), *ids_of(_text(message))]
    return [*ids, ASSISTANT]


def _said(message: Mapping[str, Any]) -> list[int]:
    """Exactly what was sampled: the words of the command, and the end unless it was cut off."""
    calls = message.get("tool_calls") or []
    if not calls:
        return [END]
    call = calls[0]
    ended = [END] if str(call.get("id", "")).endswith(ENDED) else []
    command = str(json.loads(call["function"]["arguments"]).get("command", ""))
    return [*ids_of(command), *ended]


ENDED = "-ended"
"""Of the id of a tool call whose words were followed by an end."""


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content)
