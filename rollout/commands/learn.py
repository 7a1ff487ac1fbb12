"""A run whose learner says what comes next: a line for each training step, then the dataset."""

import asyncio
import sys
from collections.abc import Iterator, Sequence

from rollout import build
from rollout.compose import Composed
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError
from rollout.online import learner as online
from rollout.online.learner import Step
from rollout.report.render import closing, show, text
from rollout.report.summary import summarise

KINDS_SHOWN = 8


def learn(composed: Composed) -> int:
    """To the learner's end, or to ^C, after which the same command goes on; the exit code."""
    conf = composed.conf
    if conf.detach:
        raise ConfigError("detach: a learner runs in this process; leave it off")
    steps = asyncio.run(online.learn(conf, on_step=_tell))
    uri = build.run_uri(conf.store.uri, conf.name)
    store = conf.store
    with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as dataset:
        summary = summarise(dataset)
    notes = list(_outcome(conf.name, steps))
    show(sys.stdout, closing(summary, uri, notes, endpoint_url=store.endpoint_url))
    return 0


def _tell(step: Step) -> None:
    show(sys.stdout, text(_line(step)))


def _line(step: Step) -> str:
    kinds = list(step.by_kind.items())[:KINDS_SHOWN]
    told = [f"step {step.version:4}", f"reward {step.reward:.3f}"]
    told += [f"{kind} {reward:.2f}" for kind, reward in kinds if len(step.by_kind) > 1]
    told.append(f"{step.rollouts / step.seconds:5.1f} rollouts/s" if step.seconds else "")
    told += [f"{step.failed} failed"] if step.failed else []
    told += [f"{step.stale} groups too old"] if step.stale else []
    return "  ".join(told)


def _outcome(name: str, steps: Sequence[Step]) -> Iterator[str]:
    if steps:
        first, last = steps[0], steps[-1]
        yield (
            f"{name}: {len(steps)} training steps, {sum(step.rollouts for step in steps)} "
            f"rollouts; mean reward {first.reward:.3f} at first, {last.reward:.3f} at the end"
        )
