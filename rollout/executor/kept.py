"""The file of what a rollout left: found by its row, brought here, held against what that says."""

import hashlib
import io
from pathlib import Path
from typing import Any

from rollout.dataset.reader import RolloutDataset
from rollout.episode import STATE_NAME
from rollout.errors import ConfigError, StoreError
from rollout.types import Artifact, Trajectory


def kept_state(row: Trajectory, run: str) -> Artifact:
    """ConfigError says what would have kept it, and how to do without."""
    for artifact in row.artifacts:
        if artifact.name == STATE_NAME:
            return artifact
    id_ = row.spec.trajectory_id[:12]
    told = [event.detail for event in row.events if event.kind == "state_not_kept"]
    why = f" ({told[-1]})" if told else ""
    raise ConfigError(
        f"rollout {id_} ended as {row.outcome} and its files were not kept{why}. "
        f"A run with keep_on=[{row.outcome}] keeps those of rollouts that end so, up to "
        f"keep_limit_mb each; a fresh sandbox of the same blueprint: "
        f"python -m rollout shell {run} {id_} --fresh"
    )


class _Bounded(io.FileIO):
    """A file that never gets longer than it was said to be."""

    def __init__(self, descriptor: int, limit_bytes: int) -> None:
        super().__init__(descriptor, "rb+", closefd=False)
        self._limit_bytes = limit_bytes

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit_bytes:
            raise StoreError("it is longer than its row says")
        return super().write(data)


def fetched(data: RolloutDataset, kept: Artifact, room: int) -> Path:
    """The file's content in `room`, a descriptor of an empty file; a name to open that by."""
    try:
        with _Bounded(room, kept.bytes) as file:
            data.store.get_file(kept.uri, file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        raise ConfigError(f"{data.uri}/{kept.uri} is gone; --fresh needs none") from exc
    if digest != kept.sha256:
        raise StoreError(f"{data.uri}/{kept.uri} is not what its row says: it was changed")
    return Path(f"/proc/self/fd/{room}")
