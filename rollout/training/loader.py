"""A run's groups for torch's DataLoader: shared out among ranks and workers, resumable.

    stream = SampleStream("s3://bucket/runs/rft", rank=rank, world_size=world_size)
    loader = StatefulDataLoader(stream, batch_size=16, num_workers=2, collate_fn=tensors_of)

Whole groups go to one reader, for a baseline needs all members. Each reader follows the log by
itself, and keeps the groups whose ids fall to it: no two the same, none left out. Only here is
torch imported.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from rollout.dataset.reader import open_dataset
from rollout.training.batches import Sample, padded, samples_of
from rollout.types import Group, Outcome

STATE_VERSION = 1


class GroupStream(IterableDataset[Group]):
    """Complete groups, in the order in which they became whole."""

    def __init__(
        self,
        uri: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        follow: bool = False,
        poll_s: float = 1.0,
        outcomes: Collection[Outcome] | None = None,
        trainable: bool = True,
        versions: tuple[int | None, int | None] = (None, None),
        max_staleness: int | None = None,
        version: Callable[[], int | None] = lambda: None,
    ) -> None:
        """
        uri, endpoint_url, region: as of `open_dataset`.
        rank, world_size: of this trainer process; its DataLoader's workers share its part.
        follow: wait for more until the run is finished.
        outcomes: a group with none of its members ended so is passed over; None: any.
        trainable: groups without a member to train on are passed over.
        versions: the lowest and the highest policy version of a group's tokens; None: any.
        max_staleness, version: groups whose oldest tokens are further behind what `version` says
            at that moment are passed over.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not below world_size {world_size}")
        self._where = {"uri": uri, "endpoint_url": endpoint_url, "region": region}
        self._rank, self._world_size = rank, world_size
        self._follow, self._poll_s = follow, poll_s
        self._outcomes, self._trainable, self._versions = outcomes, trainable, versions
        self._max_staleness, self._version = max_staleness, version
        self._cursor: str | None = None
        self._shards: int | None = None

    def __iter__(self) -> Iterator[Any]:
        for group, cursor in self._mine():
            self._cursor = cursor
            yield group

    def _mine(self) -> Iterator[tuple[Group, str]]:
        """The groups of this reader, and the cursor after each."""
        shard, shards = self._shard()
        if self._shards not in (None, shards):
            raise ValueError(
                f"this state was taken with {self._shards} readers (ranks times workers), and "
                f"there are {shards}: groups would come twice or never"
            )
        self._shards = shards
        with open_dataset(**self._where) as dataset:  # type: ignore[arg-type]
            groups = dataset.groups(self._cursor, follow=self._follow, poll_s=self._poll_s)
            for group in groups:
                if zlib.crc32(group.group_id.encode()) % shards == shard and self._wants(group):
                    yield group, groups.cursor

    def _shard(self) -> tuple[int, int]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return self._rank * workers + worker, self._world_size * workers

    def _wants(self, group: Group) -> bool:
        if self._trainable and not group.trainable:
            return False
        outcomes = {member.outcome for member in group.trajectories}
        if self._outcomes is not None and outcomes.isdisjoint(self._outcomes):
            return False
        lowest, highest = self._versions
        oldest, newest = group.oldest_version, group.newest_version
        if lowest is not None and (oldest is None or oldest < lowest):
            return False
        if highest is not None and (newest is None or newest > highest):
            return False
        now = self._version()
        stale = None not in (self._max_staleness, now, oldest)
        return not stale or now - oldest <= self._max_staleness  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        """Small and plain. Of a DataLoader's workers each has its own; torchdata's
        StatefulDataLoader asks all of them."""
        return {"version": STATE_VERSION, "cursor": self._cursor, "shards": self._shards}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after what the state's reader gave; as many readers as then are needed."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"this is no state of a stream: version {state.get('version')!r}")
        self._cursor, self._shards = state["cursor"], state["shards"]


class SampleStream(GroupStream):
    """Their token sequences, one at a time, each with its advantage."""

    def __init__(
        self, uri: str, *, estimator: str = "grpo", drop_flat: bool = False, **of_groups: Any
    ) -> None:
        """
        estimator, drop_flat: as of `samples_of`.
        of_groups: as of GroupStream.
        """
        super().__init__(uri, **of_groups)
        self._estimator, self._drop_flat = estimator, drop_flat
        self._given = 0
        """Of the group after the cursor, how many samples were given."""

    def __iter__(self) -> Iterator[Any]:
        for group, cursor in self._mine():
            samples = samples_of([group], estimator=self._estimator, drop_flat=self._drop_flat)
            for number, sample in enumerate(samples):
                if number >= self._given:
                    self._given = number + 1
                    yield sample
            self._cursor, self._given = cursor, 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._given = state["given"]


def tensors_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch, one sequence a row, padded: `input_ids loss_mask logprobs advantages rewards
    policy_versions attention_mask` as tensors, `group_ids trajectory_ids` as lists."""
    batch = padded(samples)
    return {
        "input_ids": torch.from_numpy(batch.input_ids).long(),
        "attention_mask": torch.from_numpy(batch.segments).bool(),
        "loss_mask": torch.from_numpy(batch.loss_mask),
        "logprobs": torch.from_numpy(batch.logprobs),
        "advantages": torch.from_numpy(batch.advantages),
        "policy_versions": torch.from_numpy(batch.policy_versions),
        "rewards": torch.tensor([reward for (reward,) in batch.rewards]),
        "group_ids": [name for (name,) in batch.group_ids],
        "trajectory_ids": [name for (name,) in batch.trajectory_ids],
    }
