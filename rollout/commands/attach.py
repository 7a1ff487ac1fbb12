"""`attach RUN`: the progress of a run that is at work on a cluster, to its end."""

import sys
import time
from collections.abc import Sequence

from rollout.commands.afar import ADDRESS, Afar, afar
from rollout.commands.where import one_run
from rollout.report.progress import LiveProgress
from rollout.report.render import closing, show
from rollout.report.summary import summarise

LOOK_S = 0.5
OK, MISSING = 0, 1
USAGE = """\
python -m rollout attach RUN [executor.address=…]
                             [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN  a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run

^C leaves; the run goes on. Exit codes: 0 every rollout has its reward, 1 some have none, 130 left.
"""


def main(argv: Sequence[str]) -> int:
    words = one_run("attach", argv, (ADDRESS,), USAGE)
    if words is None:
        return 0
    with afar(words) as run:
        _watch(run)
        return _close(run)


def _watch(run: Afar) -> None:
    """Until nobody is at work on it any more."""
    with LiveProgress() as shown:
        shown.update(run.committed())
        while run.cluster is not None:
            if (progress := run.cluster.progress()) is not None:
                shown.update(progress)
            elif not run.cluster.begins():
                break
            time.sleep(LOOK_S)


def _close(run: Afar) -> int:
    state = run.dataset.state
    each = len(state.tasks) * state.samples
    summary = summarise(run.dataset, dict.fromkeys(state.arms, each))
    missing = run.planned - len(state.accepted)
    notes = [f"{missing} rollouts are still to do", *run.last_end()] if missing else []
    show(sys.stdout, closing(summary, run.dataset.uri, notes))
    scored = all(reward is not None for _, reward in state.accepted.values())
    return OK if scored and not missing else MISSING
