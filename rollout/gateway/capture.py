"""What `model.capture` asks of an endpoint of chat completions, and what is taken of its reply.

`tokens` is vLLM's protocol: `return_token_ids` gives `prompt_token_ids` and each choice's
`token_ids`, `logprobs` what each was sampled with. Some servers put the prompt's ids into the
choice. `logprobs` is OpenAI's own, by the text of tokens. A reply that lacks what was asked for is
none: what is trained on is never guessed.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rollout.checks import LEFT_OUT, PINNED
from rollout.errors import ModelError
from rollout.gateway.base import ModelReply, Tokens
from rollout.gateway.dialects.fields import as_json

TEXT, LOGPROBS, TOKENS = ("text", "logprobs", "tokens")
HEADER = "X-Policy-Version"
_LARGEST_ID = 2**31 - 1


class Uncaptured(ModelError):
    """A reply without what it was asked to tell."""


def asking(body: Mapping[str, Any], capture: str) -> dict[str, Any]:
    """The request that has the endpoint tell what is to be captured."""
    if capture == TEXT:
        return dict(body)
    if capture == LOGPROBS:
        return {**body, "logprobs": True}
    kept = {key: value for key, value in body.items() if key not in LEFT_OUT}
    # Said or not, vLLM leaves the list of log probabilities empty without `top_logprobs`.
    told = {"return_token_ids": True, "logprobs": True, "top_logprobs": 0}
    return {**kept, **PINNED, **told}


def captured(
    reply: ModelReply, sent: Mapping[str, Any], capture: str, headers: Mapping[str, str]
) -> ModelReply:
    """The reply with what was captured; Uncaptured where it lacks that."""
    version = _version(reply.raw, headers)
    if capture == TEXT:
        return replace(reply, policy_version=version)
    try:
        choice = reply.raw["choices"][0]
        content = (choice.get("logprobs") or {}).get("content")
        if not isinstance(content, list):
            raise Uncaptured("it tells no log probabilities")
        if capture == LOGPROBS:
            told = as_json([[str(each["token"]), _logprob(each)] for each in content])
            return replace(_bare(reply), logprobs=told, policy_version=version)
        tokens = _tokens(reply.raw, choice, content, sent.get("temperature"))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise Uncaptured(f"it tells its tokens in no way that we know: {exc!r}") from exc
    return replace(_bare(reply), tokens=tokens, policy_version=version)


def _tokens(
    body: Mapping[str, Any], choice: Mapping[str, Any], content: list[Any], temperature: object
) -> Tokens:
    prompt = body.get("prompt_token_ids") or choice.get("prompt_token_ids")
    ids = choice.get("token_ids")
    if not prompt or ids is None:
        raise Uncaptured(
            "it tells no token ids (vLLM does since 0.10.2); model.capture=text asks for none"
        )
    if len(ids) != len(content):
        raise Uncaptured(f"it tells {len(ids)} tokens and {len(content)} log probabilities")
    return Tokens(
        prompt_ids=_ids(prompt),
        completion_ids=_ids(ids),
        logprobs=array("f", [_logprob(each) for each in content]),
        temperature=1.0 if temperature is None else float(str(temperature)),
    )


def _ids(given: list[Any]) -> "array[int]":
    if not all(type(each) is int and 0 <= each <= _LARGEST_ID for each in given):
        raise Uncaptured("it tells token ids that are none")
    return array("i", given)


def _logprob(given: Mapping[str, Any]) -> float:
    value = float(given["logprob"])
    if not math.isfinite(value):
        raise Uncaptured(f"it tells a log probability of {value}")
    return value


def _version(body: Mapping[str, Any], headers: Mapping[str, str]) -> int | None:
    """Of the weights, where the endpoint tells a number."""
    told = body.get("policy_version", body.get("weight_version", headers.get(HEADER)))
    text = str(told)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _bare(reply: ModelReply) -> ModelReply:
    """Without what we asked for and the agent did not."""
    ours = ("prompt_token_ids", "token_ids", "logprobs", "prompt_logprobs")
    raw = {key: value for key, value in reply.raw.items() if key not in ours}
    raw["choices"] = [
        {key: value for key, value in choice.items() if key not in ours}
        for choice in reply.raw["choices"]
    ]
    return replace(reply, raw=raw)


def probe_body(name: str) -> dict[str, Any]:
    """The smallest call that shows what an endpoint tells."""
    message = {"role": "user", "content": "Hi"}
    return {"model": name, "messages": [message], "max_tokens": 1, "temperature": 1.0}
