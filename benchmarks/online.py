"""What waits for what between a trainer and its rollouts, by staleness; and how old a batch is.

    python benchmarks/online.py [steps]

The trainer of +experiment=learn, whose steps are stretched to TRAIN_S, so that there is something
to overlap with: at staleness 0 sampling waits for training and training for sampling. Printed for
staleness 0, 1 and 4:

    step      seconds for a step, and their ratio to those of the same rollouts with nobody training
    trainer   share of the time in which the trainer waited for rollouts
    rollouts  share of the time in which no rollout ran
    lag       from the end of a group's last episode to the group in the trainer's hand, p50 and p99
"""

import asyncio
import logging
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import quantiles

import torch

from rollout import RolloutSource
from rollout.learning.grpo import Grpo
from rollout.learning.policy import TinyPolicy
from rollout.learning.server import PolicyServer

TRAIN_S = 2.0
"""Of one step, at the least; about what the rollouts of a step take on two cores."""
LOOK_S = 0.05


@dataclass
class Seen:
    """Of one run."""

    seconds: float = 0.0
    waited_s: float = 0.0
    idle_looks: int = 0
    looks: int = 0
    lags_s: list[float] = field(default_factory=list)


async def measure(folder: str, staleness: int, steps: int, train_s: float) -> Seen:
    torch.set_num_threads(1)
    trainer, seen = Grpo(TinyPolicy(0)), Seen()
    async with PolicyServer(trainer.policy) as server:
        config = [
            "+experiment=learn",
            "learner=none",
            f"model.urls=[{server.url}]",
            f"online.max_staleness={staleness}",
            f"store.uri={folder}",
            f"name=s{staleness}-{train_s:g}",
            "samples=8",
        ]
        async with RolloutSource(config) as source:
            await step(source, server, trainer, 1, train_s, Seen())  # images are built, pools warm
            looking = asyncio.create_task(look(source, seen))
            began_s, before_s = time.monotonic(), source.taken.waited_s
            for version in range(2, steps + 2):
                await step(source, server, trainer, version, train_s, seen)
            seen.seconds = time.monotonic() - began_s
            seen.waited_s = source.taken.waited_s - before_s
            looking.cancel()
    return seen


async def step(
    source: RolloutSource,
    server: PolicyServer,
    trainer: Grpo,
    version: int,
    train_s: float,
    seen: Seen,
) -> None:
    groups = []
    async for group in source.groups():
        ended = max(member.finished_at for member in group.trajectories)
        seen.lags_s.append((datetime.now(UTC) - ended).total_seconds())
        groups.append(group)
        if len(groups) == 8:
            break
    if train_s:
        began_s = time.monotonic()
        await asyncio.to_thread(trainer.step, groups)
        await asyncio.sleep(max(0.0, train_s - (time.monotonic() - began_s)))
    server.take(trainer.policy, version)
    await source.update_policy(version)


async def look(source: RolloutSource, seen: Seen) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        seen.looks += 1
        seen.idle_looks += source.progress is not None and source.progress.running == 0


def told(name: str, seen: Seen, steps: int, alone_s: float) -> str:
    cuts = quantiles(seen.lags_s, n=100)
    return (
        f"{name:14}{seen.seconds / steps:8.2f} s {seen.seconds / alone_s:6.2f} x"
        f"{seen.waited_s / seen.seconds:10.0%}{seen.idle_looks / max(1, seen.looks):10.0%}"
        f"{cuts[49] * 1000:9.0f} /{cuts[98] * 1000:6.0f} ms"
    )


def main() -> None:
    logging.disable()
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        alone = asyncio.run(measure(folder, 4, steps, 0.0))
        print(f"{'':14}{'step':>19}{'trainer':>10}{'rollouts':>10}{'lag p50 / p99':>20}")
        print(told("nobody trains", alone, steps, alone.seconds))
        for staleness in (0, 1, 4):
            seen = asyncio.run(measure(folder, staleness, steps, TRAIN_S))
            print(told(f"staleness {staleness}", seen, steps, alone.seconds), flush=True)


if __name__ == "__main__":
    main()
