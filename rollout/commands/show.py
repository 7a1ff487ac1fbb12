"""`show RUN [TRAJECTORY]`: the rollouts of a run, worst first, or the story of one."""

import sys
from collections.abc import Sequence
from typing import Any

from rollout import build
from rollout.commands.where import STORE_WORDS, place_of, read_words
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.report.render import difference_table, show, text, where
from rollout.report.story import rollouts_table, story
from rollout.report.summary import summarise

USAGE = """\
python -m rollout show RUN [TRAJECTORY] [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN         a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
TRAJECTORY  the first letters of an id from the table; without it: all rollouts, worst first
"""
COLUMNS = ["trajectory_id", "arm", "task_id", "sample_index", "outcome", "reward", "integrity"]
CANDIDATES = 10


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    words = read_words(argv, STORE_WORDS, USAGE)
    if len(words.plain) not in (1, 2):
        raise ConfigError(f"show takes a run and at most one trajectory\n{USAGE}")
    parent, name = place_of(words.plain[0], words.store)
    with _open(build.run_uri(parent, name), words.store.endpoint_url, words.store.region) as data:
        if len(words.plain) == 2:
            show(sys.stdout, story(data.trajectory(full_id(data, words.plain[1]))))
        else:
            _show_all(data)
    return 0


def _open(uri: str, endpoint_url: str | None, region: str | None) -> RolloutDataset:
    try:
        return open_dataset(uri, endpoint_url=endpoint_url, region=region)
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc


def _show_all(data: RolloutDataset) -> None:
    """No reward first, then the lowest."""
    rows = data.scan(columns=COLUMNS)
    badness = [_badness(row) for row in rows.to_pylist()]
    order = sorted(range(len(badness)), key=badness.__getitem__)
    worst_first = rows.take(order) if order else rows
    show(sys.stdout, rollouts_table(worst_first))
    if compared := summarise(data).differences:
        show(sys.stdout, text(""), difference_table(compared), text(""))
    show(sys.stdout, text(repr(data)), where(data.uri))


def _badness(row: dict[str, Any]) -> tuple[bool, float, str, str, int]:
    reward = row["reward"]
    scored = reward is not None
    return (scored, reward if scored else 0.0, row["arm"], row["task_id"], row["sample_index"])


def full_id(data: RolloutDataset, prefix: str) -> str:
    """The one id that begins so; ConfigError for none and for several."""
    found = sorted(id_ for id_ in data.finished_ids() if id_.startswith(prefix))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{data.uri} holds no trajectory that begins with {prefix!r}")
    some = ", ".join(found[:CANDIDATES])
    raise ConfigError(f"{prefix!r} begins {len(found)} trajectories: {some}; write more of it")
