"""Which weights answered: told by the endpoint, or by the trainer, by a call or in a file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rollout.gateway.base import ModelReply

MOST_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a trainer says of the weights that are served from now on."""

    version: int
    urls: tuple[str, ...] = ()
    """Where, in place of `model.urls`; empty: where they were before."""


class PolicyVersion:
    """Read around each call of one rollout, so that a change in its middle shows."""

    def __init__(
        self, file: Path | None = None, told: Callable[[], int | None] = lambda: None
    ) -> None:
        """
        file: holds a number, and is replaced whole when the weights are.
        told: what the trainer has said last, which goes before the file.
        """
        self._file, self._told = file, told
        self.lowest: int | None = None
        """Over all calls; None where nobody tells."""
        self.highest: int | None = None

    def stamp(self, reply: ModelReply, before: int | None) -> ModelReply:
        """The reply with its version, that of the endpoint before what `read` says. `before`: what
        that said before the call.

        Weights that changed while it was sampled count with the older number, and the newer one in
        `highest`: which of its tokens came after, nobody told.
        """
        told = reply.policy_version
        seen = [before, self.read()] if told is None else [told]
        known = [version for version in seen if version is not None]
        if not known:
            return reply
        self.lowest = min([*known, *([] if self.lowest is None else [self.lowest])])
        self.highest = max([*known, *([] if self.highest is None else [self.highest])])
        return replace(reply, policy_version=known[0])

    def read(self) -> int | None:
        """What the trainer says now."""
        if (told := self._told()) is not None or self._file is None:
            return told
        try:
            text = self._file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None  # not written yet
        return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
