"""The tokens of the scripted engine: bytes, and a few marks of a chat template.

Small, and enough of a tokenizer to be wrong with: what a harness changes in a message on its way
back, be it white space, changes the prompt's tokens, as it does with any real one.
"""

import hashlib
from array import array

from rollout.gateway.base import ModelCall, Tokens
from rollout.types import Message, canonical_json

BEGIN, END, CALL, THINK, THOUGHT, TOOLS = range(256, 262)
"""Token ids of the marks; those below are bytes."""


def prompt_ids(call: ModelCall) -> "array[int]":
    """All messages and tools of a call, and the beginning of the reply."""
    ids = array("i")
    if call.tools:
        ids.append(TOOLS)
        ids.extend(canonical_json([dict(tool) for tool in call.tools]).encode())
    for message in call.messages:
        ids += _opening(message.role)
        ids += _body(message)
        ids.append(END)
    return ids + _opening("assistant")


def reply_ids(message: Message) -> "array[int]":
    """What is sampled for a reply, with the mark that ends it."""
    return _body(message) + array("i", [END])


def tokens_of(call: ModelCall, message: Message, session_id: str) -> Tokens:
    """The whole call; its log probabilities differ from token to token and from call to call."""
    prompt, reply = prompt_ids(call), reply_ids(message)
    seed = hashlib.sha256(session_id.encode() + prompt.tobytes()).digest()
    noise = hashlib.shake_128(seed).digest(2 * len(reply))
    steps = (int.from_bytes(noise[2 * n : 2 * n + 2], "big") for n in range(len(reply)))
    temperature = call.sampling.get("temperature", 1.0)
    return Tokens(
        prompt_ids=prompt,
        completion_ids=reply,
        logprobs=array("f", (-step / 4096 for step in steps)),
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
    )


def _opening(role: str) -> "array[int]":
    return array("i", [BEGIN, *role.encode(), ord("\n")])


def _body(message: Message) -> "array[int]":
    ids = array("i")
    if message.reasoning_content is not None:
        ids.append(THINK)
        ids.extend(message.reasoning_content.encode(errors="replace"))
        ids.append(THOUGHT)
    ids.extend(message.content.encode(errors="replace"))
    for call in message.tool_calls:
        ids.append(CALL)
        ids.extend(canonical_json([call.name, call.arguments]).encode(errors="replace"))
    return ids
