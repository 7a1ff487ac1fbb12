"""`cancel RUN`: end a run that is at work on a cluster."""

import sys
from collections.abc import Sequence

from rollout.commands.afar import ADDRESS, afar
from rollout.commands.where import one_run, switch
from rollout.errors import ConfigError
from rollout.report.render import show, text

USAGE = """\
python -m rollout cancel RUN [now=true] [executor.address=…]
                             [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN  a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
now  end at once; else what runs is finished and committed, and nothing new starts

What is committed stays; the command that began the run goes on with the rest.
"""


def main(argv: Sequence[str]) -> int:
    words = one_run("cancel", argv, ("now", ADDRESS), USAGE)
    if words is None:
        return 0
    now = switch(words, "now")
    with afar(words) as run:
        if run.cluster is None:
            raise ConfigError(
                f"cancel: run {run.name} is not on a cluster that outlives its command; end that "
                "with ^C, or say where it is with executor.address=HOST:PORT"
            )
        if not run.cluster.tell("stop" if now else "drain"):
            raise ConfigError(f"cancel: nobody is at work on run {run.name} on that cluster")
    done = "is stopped" if now else "ends when what runs is committed"
    show(sys.stdout, text(f"{run.name} {done}"))
    return 0
