"""Sandboxes that stand on what other sandboxes wrote, and how long that is kept."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from rollout.aio import shielded
from rollout.errors import SandboxError
from rollout.sandbox.base import Engine, Image, Sandbox, SandboxSpec


class Lineage:
    """Which images and sandboxes stand on which layers, of those that sandboxes left.

    A layer may go once nobody stands on it: not its own image, none made on top of it, no sandbox.
    """

    def __init__(self) -> None:
        self._standing: dict[str, int] = {}
        """Layer to how many stand on it."""
        self._layers: dict[str, tuple[str, ...]] = {}
        """Who stands (an image's digest or a sandbox's name) to the layers below, lowest first."""
        self._discarded: set[str] = set()
        """Layers that are kept only for those who stand on them already."""

    def keep(self, image: Image) -> None:
        """A new image, made of what a sandbox left."""
        self._standing[image.layers[-1]] = 0
        self._stand(image.digest, image.layers)

    def stand(self, sandbox: str, image: Image) -> None:
        """A sandbox begins to stand on `image`; SandboxError if that was discarded."""
        if image.layers[-1] in self._discarded:
            raise SandboxError(f"image {image.digest} was discarded")
        self._stand(sandbox, image.layers)

    def _stand(self, who: str, layers: Sequence[str]) -> None:
        kept = tuple(layer for layer in layers if layer in self._standing)
        for layer in kept:
            self._standing[layer] += 1
        if kept:
            self._layers[who] = kept

    def made_by_sandboxes(self, layers: Sequence[str]) -> bool:
        """Whether any of these layers is one that a sandbox left."""
        return any(layer in self._standing for layer in layers)

    def discard(self, image: Image) -> list[str]:
        """Layers that nobody stands on any more; fine if the image is none of ours."""
        if image.digest in self._layers:
            self._discarded.add(image.layers[-1])
        return self.leave(image.digest)

    def leave(self, who: str) -> list[str]:
        """Layers that nobody stands on any more, topmost first; fine if it stood on none."""
        free = []
        for layer in reversed(self._layers.pop(who, ())):
            self._standing[layer] -= 1
            if not self._standing[layer]:
                del self._standing[layer]
                self._discarded.discard(layer)
                free.append(layer)
        return free


async def fork(engine: Engine, parent: Sandbox, count: int) -> list[Sandbox]:
    """As `Sandbox.fork`, for an engine whose images last as long as sandboxes stand on them."""
    if count < 1:
        raise SandboxError(f"fork into {count} sandboxes: at least one, please")
    image = await parent.snapshot()
    try:
        return await _create_all(engine, replace(parent.spec, image=image), count)
    finally:
        await shielded(engine.discard(image))


async def _create_all(engine: Engine, spec: SandboxSpec, count: int) -> list[Sandbox]:
    making = [asyncio.ensure_future(engine.create(spec)) for _ in range(count)]
    try:
        return list(await asyncio.gather(*making))
    except BaseException:
        await shielded(_end_all(making))
        raise


async def _end_all(making: "list[asyncio.Task[Sandbox]]") -> None:
    for task in making:
        task.cancel()
    for task in making:
        with suppress(asyncio.CancelledError, Exception):
            await (await task).close()
