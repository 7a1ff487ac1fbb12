"""Random histories of a run against a model of it: each accepted id is in exactly one part."""

import shutil
import tempfile
from pathlib import Path

import pyarrow.dataset as pads
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rollout.dataset.base import CommitRequest
from rollout.dataset.checkpoint import FOLDER, save
from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset
from rollout.dataset.store import LocalStore
from rollout.errors import Fenced
from tests.dataset.examples import a_row, ids_of, put_rows
from tests.dataset.folded import folded

names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)


class History(RuleBasedStateMachine):
    """Commits, crashes, take-overs, zombies, retractions, checkpoints and finishes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rollout-log-"))
        self.store = LocalStore(self.folder)
        self.model: dict[str, float] = {}
        self.seen: set[str] = set()
        self.sent: list[CommitRequest] = []
        self.zombies: list[CommitLog] = []
        self.numbers = 0
        self.whole = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def start(self) -> None:
        self.log = CommitLog(self.store, "first")
        self.log.announce()

    def put(self, ids: list[str]) -> CommitRequest:
        self.numbers += 1
        self.whole = False
        rows = [a_row(name, reward=float(self.numbers)) for name in ids]
        return put_rows(self.store, *rows, epoch=self.log.epoch, number=self.numbers)

    @rule(groups=st.lists(names, min_size=1, max_size=3))
    def commit(self, groups: list[list[str]]) -> None:
        requests = [self.put(ids) for ids in groups]
        for request, reply in zip(requests, self.log.commit(requests, {}), strict=True):
            again = tuple(name for name in request.trajectory_ids if name in self.model)
            assert reply.duplicates == again
            assert reply.accepted == (not again)
            if reply.accepted:
                rewards = zip(request.trajectory_ids, request.rewards, strict=True)
                self.model |= {name: reward or 0.0 for name, reward in rewards}
                self.sent.append(request)
            self.seen.update(request.trajectory_ids)

    @rule(ids=names)
    def crash_between_the_part_and_the_log(self, ids: list[str]) -> None:
        self.put(ids)
        self.take_over()

    @rule(data=st.data())
    def send_an_accepted_request_again(self, data: st.DataObject) -> None:
        if not self.sent:
            return
        request = data.draw(st.sampled_from(self.sent))
        seq = self.log.state.seq
        (reply,) = self.log.commit([request], {})
        if all(part.path in self.log.state.parts for part in request.parts):
            assert reply.accepted
            assert self.log.state.seq == seq

    @rule()
    def take_over(self) -> None:
        self.zombies.append(self.log)
        self.log = CommitLog(self.store, f"owner {len(self.zombies)}")
        assert self.log.announce() == len(self.zombies) + 1
        self.sent.clear()
        self.whole = False

    @rule(data=st.data(), ids=names)
    def a_zombie_wakes(self, data: st.DataObject, ids: list[str]) -> None:
        if not self.zombies:
            return
        zombie = data.draw(st.sampled_from(self.zombies))
        request = self.put(ids)
        try:
            zombie.commit([request], {})
        except Fenced:
            return
        raise AssertionError("a zombie committed")

    @rule(ids=names)
    def retract(self, ids: list[str]) -> None:
        held = [name for name in ids if name in self.model]
        self.log.retract(ids)
        for name in held:
            del self.model[name]
        self.sent = [r for r in self.sent if not set(r.trajectory_ids) & set(held)]
        self.whole = self.whole and not held

    @rule()
    def checkpoint(self) -> None:
        save(self.store, self.log.state)

    @rule(data=st.data())
    def a_checkpoint_is_damaged(self, data: st.DataObject) -> None:
        for path in self.store.list(FOLDER)[-1:]:
            file = self.folder / path
            whole = file.read_bytes()
            at = data.draw(st.integers(0, len(whole) - 1))
            torn = whole[:at] + data.draw(st.sampled_from((b"", b"\0" + whole[at + 1 :])))
            file.write_bytes(torn)

    @rule()
    def finish(self) -> None:
        self.log.finish({})
        self.whole = True

    @invariant()
    def whoever_reads_sees_each_accepted_row_once(self) -> None:
        state = CommitLog(self.store, "reader").load()
        assert state == self.log.state == folded(self.store)
        assert list(state.parts) == list(self.log.state.parts)
        assert {name: reward for name, (_, reward) in state.accepted.items()} == self.model
        assert self.seen <= set(state.attempts)
        table = RolloutDataset(self.store).scan(columns=["trajectory_id", "reward"])
        assert table.num_rows == len(self.model)
        rows = zip(ids_of(table), table["reward"].to_pylist(), strict=True)
        assert dict(rows) == self.model

    @invariant()
    def a_bare_glob_is_exact_after_finish(self) -> None:
        if self.whole and self.model:
            found = pads.dataset(self.folder / "trajectories", partitioning="hive").to_table()
            assert sorted(ids_of(found)) == sorted(self.model)


History.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHistory = History.TestCase
