"""`status RUN`: one look at a run, whoever drives it."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rollout.commands.afar import ADDRESS, Afar, afar
from rollout.commands.where import one_run
from rollout.dataset.log import entries
from rollout.report.progress import line
from rollout.report.render import duration, show, text

USAGE = """\
python -m rollout status RUN [executor.address=…]
                             [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN  a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run

What is committed, and on a Ray cluster that can be reached what is at work.
"""


def main(argv: Sequence[str]) -> int:
    words = one_run("status", argv, (ADDRESS,), USAGE)
    if words is None:
        return 0
    with afar(words) as run:
        show(sys.stdout, *(text(told) for told in _look(run)), wrap=False)
    return 0


def _look(run: Afar) -> Iterator[str]:
    live = run.cluster.progress() if run.cluster else None
    yield f"{run.name}: {line(live or run.committed(), None)}"
    for note in live.notes if live else ():
        yield f"note: {note}"
    state = run.dataset.state
    for last in entries(run.dataset.store, max(0, state.seq - 1), state.seq):
        ago = datetime.now(UTC) - datetime.fromisoformat(last.at)
        yield f"last written {duration(ago.total_seconds() * 1000)} ago by {last.owner}"
    if state.finished:
        yield "finished"
    elif live:
        yield "at work; `python -m rollout attach` shows more, `cancel` ends it in order"
    elif run.cluster and run.cluster.begins():
        yield "its driver is there, and begins"
    elif run.cluster:
        yield "nobody is at work on it on that cluster; the command that began it goes on"
        yield from run.last_end()
    else:
        yield "not finished; whether somebody is at work on it only a cluster could tell"
