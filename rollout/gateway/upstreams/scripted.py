"""Replies out of a file: the same ones each time, for tests, demonstrations and dry runs.

    {"rules": [{"when": "palindrome", "turns": [{"run": "echo hi > out.txt"}, {"text": "Done."}]},
               {"turns": [{"text": "I give up."}]}],
     "latency_s": 0.05}

The first rule whose `when`, a regular expression, is found in what the user said at first answers
the whole conversation: its nth turn comes after n messages of the assistant, and its last one is
repeated. `run` is a call of the shell tool that the agent offers, by whatever name. With `share` a
rule is taken in that part of the rollouts only, always the same ones.
"""

import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rollout.errors import ConfigError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply, Tokens, Usage
from rollout.gateway.capture import LOGPROBS, TEXT
from rollout.gateway.dialects.fields import as_json
from rollout.gateway.upstreams.byte_tokens import tokens_of
from rollout.types import Message, ToolCall

SHELLS = {"bash": "command", "Bash": "command", "exec_command": "cmd", "shell": "command"}
"""Names of shell tools that agents offer, and of their argument."""
CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Turn:
    text: str = ""
    reasoning: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    turns: tuple[Turn, ...]
    when: re.Pattern[str] | None = None
    share: float = 1.0

    def answers(self, asked: str, session_id: str) -> bool:
        if self.when is not None and not self.when.search(asked):
            return False
        digest = hashlib.sha256(session_id.encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.share * 2**32


class ScriptedUpstream:
    """Answers as its script says, with the usage of a model that has four letters to a token."""

    def __init__(self, name: str, script: str, *, capture: str = TEXT) -> None:
        """ConfigError for a script that cannot be read."""
        self._name = name
        self._capture = capture
        self.ledger: list[Tokens] | None = None
        """Set to a list, it takes every call whose tokens are told, for whoever checks them."""
        self._rules, self._latency_s = read_script(script)

    async def __aenter__(self) -> "ScriptedUpstream":
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        await asyncio.sleep(self._latency_s)
        asked = _asked(call)
        spoken = sum(message.role == "assistant" for message in call.messages)
        for rule in self._rules:
            if rule.answers(asked, session_id):
                turn = rule.turns[min(spoken, len(rule.turns) - 1)]
                return self._told(call, self._reply(call, turn, spoken), session_id)
        raise CallRefused(f"the script has no rule for: {asked[:200]!r}", "invalid")

    def forget(self, session_id: str) -> None: ...

    def _told(self, call: ModelCall, reply: ModelReply, session_id: str) -> ModelReply:
        if self._capture == TEXT:
            return reply
        tokens = tokens_of(call, reply.message, session_id)
        if self._capture == LOGPROBS:
            text = (chr(token) for token in tokens.completion_ids)
            return replace(reply, logprobs=as_json([*zip(text, tokens.logprobs, strict=True)]))
        if self.ledger is not None:
            self.ledger.append(tokens)
        usage = Usage(
            prompt_tokens=len(tokens.prompt_ids), completion_tokens=len(tokens.completion_ids)
        )
        return replace(reply, tokens=tokens, usage=usage)

    def _reply(self, call: ModelCall, turn: Turn, number: int) -> ModelReply:
        calls = () if turn.run is None else (_shell_call(call, turn.run, number),)
        read = sum(len(message.content) for message in call.messages)
        written = len(turn.text) + len(turn.run or "") + len(turn.reasoning or "")
        return ModelReply(
            message=Message(
                role="assistant",
                content=turn.text,
                reasoning_content=turn.reasoning,
                tool_calls=calls,
            ),
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(
                prompt_tokens=read // CHARS_PER_TOKEN + 1,
                completion_tokens=written // CHARS_PER_TOKEN + 1,
            ),
            model=self._name,
        )


def _asked(call: ModelCall) -> str:
    """All that the user said before the model first did: harnesses put words of their own beside
    the task's."""
    begun = itertools.takewhile(lambda message: message.role != "assistant", call.messages)
    return "\n".join(message.content for message in begun if message.role == "user")


def _shell_call(call: ModelCall, command: str, number: int) -> ToolCall:
    offered = [tool.get("function", {}).get("name") for tool in call.tools]
    name = next((name for name in offered if name in SHELLS), None)
    if name is None:
        raise CallRefused(f"the script runs a command, and the tools are {offered}", "invalid")
    arguments = json.dumps({SHELLS[name]: command})
    return ToolCall(id=f"call_{number}", name=name, arguments=arguments)


def read_script(text: str) -> tuple[tuple[Rule, ...], float]:
    """Its rules, and how long each reply takes."""
    try:
        script = json.loads(text)
        rules = tuple(_rule(given) for given in script["rules"])
        if not rules:
            raise ValueError("rules: must hold at least one")
        _only(script, ("rules", "latency_s"))
        return rules, float(script.get("latency_s", 0.0))
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as exc:
        raise ConfigError(f"model.script: {type(exc).__name__}: {exc}") from exc


def _rule(given: Mapping[str, Any]) -> Rule:
    _only(given, ("when", "turns", "share"))
    turns = []
    for turn in given["turns"]:
        _only(turn, ("text", "reasoning", "run"))
        turns.append(Turn(**turn))
    if not turns:
        raise ValueError("turns: must hold at least one")
    when = re.compile(given["when"]) if given.get("when") else None
    return Rule(turns=tuple(turns), when=when, share=float(given.get("share", 1.0)))


def _only(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(known)}")
