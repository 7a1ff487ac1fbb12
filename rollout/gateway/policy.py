"""Which weights answered: told by the endpoint, or by the trainer in a file."""

from dataclasses import replace
from pathlib import Path

from rollout.gateway.base import ModelReply

MOST_DIGITS = 18


class PolicyVersion:
    """Read around each call of one rollout, so that a change in its middle shows."""

    def __init__(self, file: Path | None = None) -> None:
        """`file` holds a number, and is replaced whole when the weights are."""
        self._file = file
        self.lowest: int | None = None
        """Over all calls; None where nobody tells."""
        self.highest: int | None = None

    def stamp(self, reply: ModelReply, before: int | None) -> ModelReply:
        """The reply with its version, that of the endpoint before that of the file. `before`: what
        the file said before the call.

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
        """What the file says now."""
        if self._file is None:
            return None
        try:
            text = self._file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None  # not written yet
        return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
