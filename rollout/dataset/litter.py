"""What lies in a run's folder and belongs to nothing: found by the log, and by names of ours alone.

Kills leave parts that no commit names, and artifacts of attempts that came to nothing. What a run
at work may still name is spared: only files of epochs that are fenced count, and those of the last
epoch once the run is finished. Anything whose name is not spelt as ours is never touched.
"""

import re
from collections.abc import Iterator

from rollout.dataset.parts import is_part
from rollout.dataset.reader import RolloutDataset

_EPOCH_OF_PART = re.compile(r"/e(\d+)-\d+-[0-9a-f]{8}\.\w+$")
_ARTIFACT = re.compile(r"artifacts/[0-9a-f]{32}/(\d+)-\d+(?:-[0-9a-f]{8})?/.+")


def litter(dataset: RolloutDataset) -> list[str]:
    """Objects that can be deleted, in order."""
    # The state comes first: what is written after it belongs to a later epoch, or is spared.
    state = dataset.state.copy()
    over = state.epoch if state.finished else state.epoch - 1
    return sorted(
        path
        for path, epoch in (*_parts(dataset, set(state.parts)), *_artifacts(dataset))
        if epoch <= over
    )


def _parts(dataset: RolloutDataset, named: set[str]) -> Iterator[tuple[str, int]]:
    for table in ("trajectories/", "sequences/"):
        for path in dataset.store.list(table):
            epoch = _EPOCH_OF_PART.search(path)
            if epoch and is_part(path) and path not in named:
                yield path, int(epoch[1])


def _artifacts(dataset: RolloutDataset) -> Iterator[tuple[str, int]]:
    # Listed before the rows are read, so that one whose row comes meanwhile is seen to be named.
    listed = dataset.store.list("artifacts/")
    kept = dataset.scan(columns=["artifacts"])["artifacts"].to_pylist() if listed else []
    named = {artifact["uri"] for artifacts in kept for artifact in artifacts or ()}
    for path in listed:
        found = _ARTIFACT.fullmatch(path)
        if found and path not in named:
            yield path, int(found[1])
