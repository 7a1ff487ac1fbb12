"""A run that somebody else drives, as its dataset and its cluster tell of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rollout import build
from rollout.commands.where import Words, place_of
from rollout.config import ExecutorConf
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.executor.base import Progress
from rollout.report.render import duration
from rollout.types import count_by

if TYPE_CHECKING:
    from rollout.executor.ray_away import Away

ADDRESS = "executor.address"


@dataclass(frozen=True, slots=True)
class Afar:
    """Both sources on one run."""

    name: str
    dataset: RolloutDataset
    cluster: "Away | None"
    """None where the run has no cluster that others can reach."""

    @property
    def planned(self) -> int:
        state = self.dataset.state
        return len(state.arms) * len(state.tasks) * state.samples

    def last_end(self) -> Iterator[str]:
        """How the last start ended, if nobody watched it and nobody is at work now."""
        ends, starts = self.dataset.ends(), self.dataset.starts()
        last = starts[-1] if starts else self.dataset.run
        if not last["config"].get("config", {}).get("detach"):
            return
        if not ends or ends[-1]["at"] < last.get("at", ""):
            yield "its driver ended without a word: it was killed, or its node was lost"
            return
        end = ends[-1]
        ago = datetime.now(UTC) - datetime.fromisoformat(end["at"])
        how = f": {end['error']}" if end["error"] else ""
        yield f"its driver on {end['host']} ended {duration(ago.total_seconds() * 1000)} ago{how}"
        yield from end["notes"]

    def committed(self) -> Progress:
        """What the log alone knows."""
        state = self.dataset.state
        return Progress(
            total=self.planned,
            done=len(state.accepted),
            outcomes=count_by(outcome.value for outcome, _ in state.accepted.values()),
            finished=state.finished,
        )


@contextmanager
def afar(words: Words) -> Iterator[Afar]:
    """The run that the command line names; ConfigError when there is none."""
    parent, name = place_of(words.plain[0], words.store)
    store = words.store
    try:
        dataset = open_dataset(
            build.run_uri(parent, name), endpoint_url=store.endpoint_url, region=store.region
        )
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc
    with dataset:
        conf = _executor(dataset, words.settings.get(ADDRESS))
        if not (conf.address or os.environ.get("RAY_ADDRESS")) or conf.kind != "ray":
            yield Afar(name, dataset, None)
            return
        from rollout.executor.ray_away import away

        with away(conf, name) as cluster:
            yield Afar(name, dataset, cluster)


def _executor(dataset: RolloutDataset, address: str | None) -> ExecutorConf:
    """Where the last start of the run went, unless the command line says where."""
    saved = (dataset.starts() or [dataset.run])[-1]["config"].get("config", {})
    known = ExecutorConf.__dataclass_fields__
    written = saved.get("executor", {}).items()
    conf = ExecutorConf(**{key: value for key, value in written if key in known})
    conf.address = address or conf.address
    return conf
