"""A run's groups through torch's own DataLoader: shared out, filtered, resumed in the middle."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402  only with torch

from rollout.training.loader import GroupStream, SampleStream, tensors_of  # noqa: E402
from rollout.types import Group, Outcome  # noqa: E402
from tests.dataset.test_tail import SIZE, Run, member  # noqa: E402

GROUPS = 24


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Groups of three; every fifth has no reward, versions grow from 0."""
    run = Run(tmp_path / "run")
    run.store.put_if_absent("run.json", b"{}")
    for number in range(GROUPS):
        lost = number % 5 == 4
        rows = [
            replace(
                member(f"g{number}", n, reward=None if lost else float(n == 0)),
                capture_level="tokens",
                outcome=Outcome.SANDBOX_LOST if lost else Outcome.OK,
                policy_version_min=number,
                policy_version_max=number,
            )
            for n in range(SIZE)
        ]
        run.commit(*rows)
    run.log.finish({})
    return run


def names(groups: "list[Group]") -> list[str]:
    return [group.group_id for group in groups]


GOOD = [f"g{number}" for number in range(GROUPS) if number % 5 != 4]


def test_it_gives_what_may_be_trained_on_in_the_logs_order(run: Run) -> None:
    assert names(list(GroupStream(run.store.uri))) == GOOD
    assert len(list(GroupStream(run.store.uri, trainable=False))) == GROUPS
    lost = GroupStream(run.store.uri, trainable=False, outcomes={Outcome.SANDBOX_LOST})
    assert names(list(lost)) == ["g4", "g9", "g14", "g19"]


def test_versions_and_staleness_are_those_of_its_tokens(run: Run) -> None:
    assert names(list(GroupStream(run.store.uri, versions=(5, 7)))) == ["g5", "g6", "g7"]
    fresh = GroupStream(run.store.uri, max_staleness=2, version=lambda: 23)
    assert names(list(fresh)) == ["g21", "g22", "g23"]


def test_ranks_and_workers_share_it_without_overlap_or_loss(run: Run) -> None:
    seen: Counter[str] = Counter()
    for rank in range(2):
        stream = GroupStream(run.store.uri, rank=rank, world_size=2)
        loader = DataLoader(stream, batch_size=None, num_workers=2)
        mine = names(list(loader))
        assert mine, "each rank has some"
        seen.update(mine)
    assert seen == Counter(GOOD)


@pytest.mark.parametrize("stop", [0, 1, 7, 20, 40])
def test_a_stream_goes_on_from_its_state(run: Run, stop: int) -> None:
    whole = [(s.trajectory_id, len(s)) for s in SampleStream(run.store.uri)]
    first = SampleStream(run.store.uri)
    given = [(s.trajectory_id, len(s)) for s, _ in zip(first, range(stop), strict=False)]
    if stop:  # `zip` has asked for one more before it saw that it was enough
        second = SampleStream(run.store.uri)
        second.load_state_dict(first.state_dict())
        rest = [(s.trajectory_id, len(s)) for s in second]
        assert given + whole[len(given) : len(given) + 1] + rest == whole
    assert given == whole[: len(given)]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call
def test_torchdatas_loader_resumes_all_its_workers(run: Run) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    stream = SampleStream(run.store.uri)
    loader = stateful(stream, batch_size=4, num_workers=2, collate_fn=tensors_of)
    batches = iter(loader)
    given = [name for _ in range(3) for name in next(batches)["trajectory_ids"]]
    state = loader.state_dict()
    again = stateful(
        SampleStream(run.store.uri), batch_size=4, num_workers=2, collate_fn=tensors_of
    )
    again.load_state_dict(state)
    rest = [name for batch in again for name in batch["trajectory_ids"]]
    assert Counter(given + rest) == Counter(s.trajectory_id for s in SampleStream(run.store.uri))


def test_another_number_of_readers_is_refused(run: Run) -> None:
    stream = GroupStream(run.store.uri)
    next(iter(stream))
    other = GroupStream(run.store.uri, world_size=2)
    other.load_state_dict(stream.state_dict())
    with pytest.raises(ValueError, match="taken with 1 readers"):
        next(iter(other))


def test_a_batch_is_what_a_loss_takes(run: Run) -> None:
    (batch, *_) = DataLoader(SampleStream(run.store.uri), batch_size=6, collate_fn=tensors_of)
    assert batch["input_ids"].shape == batch["loss_mask"].shape == batch["attention_mask"].shape
    assert batch["rewards"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert batch["policy_versions"].max() == 7
    assert set(batch["group_ids"]) == {"g0"}
