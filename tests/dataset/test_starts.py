"""run.json is written once; each start leaves its record."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from rollout.dataset.reader import RolloutDataset
from rollout.dataset.run import begin, read_run, record_end
from rollout.dataset.store import LocalStore, Store
from rollout.errors import StoreError


def test_the_first_config_stays_and_each_start_is_recorded(store: Store) -> None:
    assert begin(store, {"samples": 1}, {"arms": {"x": "1"}}) == 1
    assert begin(store, {"samples": 2}, {}) == 2
    run = read_run(store)
    assert (run["config"], run["digests"]) == ({"samples": 1}, {"arms": {"x": "1"}})
    first, second = RolloutDataset(store).starts()
    assert (first["config"], second["config"]) == ({"samples": 1}, {"samples": 2})
    assert first["pid"] == os.getpid()
    assert {"at", "package_version", "git_commit", "host", "user", "python"} <= set(first)


def test_how_a_start_that_nobody_watched_ended_stands_beside_it(store: Store) -> None:
    begin(store, {}, {})
    record_end(store, error="no node has sandbox_host", notes=["one"])
    record_end(store, error="", notes=())
    first, second = RolloutDataset(store).ends()
    assert (first["error"], first["notes"]) == ("no node has sandbox_host", ["one"])
    assert (second["error"], second["notes"]) == ("", [])
    assert first["at"] < second["at"]


def test_starts_at_once_get_numbers_of_their_own(local_store: LocalStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: begin(local_store, {"n": n}, {}), range(8)))
    assert sorted(numbers) == list(range(1, 9))


def test_a_run_that_is_not_there_or_damaged_or_newer(local_store: LocalStore) -> None:
    with pytest.raises(StoreError, match="there is no run at"):
        read_run(local_store)
    for content, said in (
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"layout_version": 9, "schema_version": 1}', "use the newer rollout"),
    ):
        local_store.delete("run.json")
        local_store.put_if_absent("run.json", content)
        with pytest.raises(StoreError, match=said):
            begin(local_store, {}, {})
