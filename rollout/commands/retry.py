"""`retry RUN outcome=[…]`: take rows back and start the run again from its saved config."""

import sys
from collections.abc import Sequence

from rollout import build
from rollout.checks import nearest
from rollout.commands.run import run
from rollout.commands.where import STORE_WORDS, place_of, read_words
from rollout.compose import Composed, restore
from rollout.config import StoreConf
from rollout.dataset.log import CommitLog
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.plan import ids_with
from rollout.report.render import show, text
from rollout.types import Outcome

USAGE = """\
python -m rollout retry RUN [outcome=[a,b]] [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN      a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
outcome  which rollouts to make again; default: all that were ours to answer for,
         that is setup_error, sandbox_lost, model_error, scoring_error, judge_error, canceled
"""


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    words = read_words(argv, ("outcome", *STORE_WORDS), USAGE)
    if len(words.plain) != 1:
        raise ConfigError(f"retry takes one run\n{USAGE}")
    outcomes = _outcomes(words.settings.get("outcome", ""))
    composed = saved_run(*place_of(words.plain[0], words.store), words.store)
    job = build.prepare(composed)  # what is wrong is said before any row is taken back
    ids = [id_ for id_ in ids_with(job.state, outcomes) if id_ in _planned(job)]
    if ids:
        log = CommitLog(job.store, "retry")
        log.announce()
        log.retract(ids)
    show(sys.stdout, text(f"{len(ids)} rollouts of {job.conf.name} are taken back and run again"))
    return run(composed)


def saved_run(parent: str, name: str, store: StoreConf) -> Composed:
    """What the last start of the run at `parent/name` was asked to do, writing to that place."""
    uri = build.run_uri(parent, name)
    try:
        with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as dataset:
            saved = (dataset.starts() or [dataset.run])[-1]["config"]
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc
    composed = restore(saved)
    if composed.conf.name != name:
        raise ConfigError(f"{uri} holds run {composed.conf.name!r}; its folder must keep that name")
    for conf in (composed.conf, *(point.conf for point in composed.points)):
        conf.dry_run = conf.detach = False
        conf.store.uri = parent
        conf.store.endpoint_url = store.endpoint_url or conf.store.endpoint_url
        conf.store.region = store.region or conf.store.region
    return composed


def _planned(job: build.Job) -> frozenset[str]:
    return frozenset(spec.trajectory_id for spec in job.plan.specs)


def _outcomes(words: str) -> list[Outcome]:
    names = [name.strip() for name in words.strip("[]").split(",") if name.strip()]
    known = [outcome.value for outcome in Outcome]
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; there are: {', '.join(known)}"
            raise ConfigError(f"outcome: {name!r} is none{hint}")
    return [Outcome(name) for name in names] or [o for o in Outcome if not o.scored]
