"""Which layers a sandbox stands on, once a chain of forks of forks has grown long."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rollout.errors import SandboxError

FLATTEN_PAST = 64
"""Layers of a chain; a longer one is merged before a sandbox is made on it."""

Layers = tuple[str, ...]
Flatten = Callable[[Layers], Awaitable[str]]
"""Makes one layer that on the lowest of a chain shows what all of it does; its name."""

log = logging.getLogger(__name__)


class Chains:
    """The merged layers of one engine. They are its own and end with it."""

    def __init__(self, flatten: Flatten) -> None:
        self._flatten = flatten
        self._merged: dict[Layers, str] = {}
        self._unmerged: set[Layers] = set()
        self._merging = asyncio.Lock()

    async def short(self, layers: Layers) -> Layers:
        """A chain that shows the same and is not longer than FLATTEN_PAST; one merge at a time.

        What cannot be merged is used as it is, for the kernel takes twice as many.
        """
        if len(layers) <= FLATTEN_PAST:
            return layers
        async with self._merging:
            while len(layers := self.shortened(layers)) > FLATTEN_PAST:
                head = layers[:FLATTEN_PAST]
                if head in self._unmerged:
                    break
                try:
                    self._merged[head] = await self._flatten(head)
                except (SandboxError, OSError, RecursionError) as exc:
                    log.warning("%d layers stay unmerged: %s", len(layers), exc)
                    self._unmerged.add(head)
        return layers

    def shortened(self, layers: Layers) -> Layers:
        """As far as merged layers are there."""
        while (head := layers[:FLATTEN_PAST]) in self._merged:
            layers = (head[0], self._merged[head], *layers[FLATTEN_PAST:])
        return layers
