"""Locks, uid ranges and sweeps, without a sandbox."""

import os
from pathlib import Path

import pytest

from rollout.errors import SandboxError
from rollout.sandbox.cgroups import Cgroups, Hierarchies
from rollout.sandbox.owner import RANGE, SLOTS_PER_BLOCK, Owner, Slots, remove_tree, sweep
from rollout.types import Resources

HYBRID = """tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup {0}/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup {0}/memory cgroup rw,memory 0 0
cgroup2 {0}/unified cgroup2 rw 0 0
"""


@pytest.fixture
def machine(tmp_path: Path) -> Hierarchies:
    """Folders in place of cgroup hierarchies; plain folders lack only the kernel's own files."""
    unified = tmp_path / "cg/unified"
    for name in ("cpu,cpuacct", "memory", "unified"):
        (tmp_path / "cg" / name).mkdir(parents=True)
    (unified / "cgroup.controllers").write_text("hugetlb\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(HYBRID.format(tmp_path / "cg"))
    return Hierarchies.of_machine(mounts)


def test_hybrid_machine_takes_from_version_1_what_version_2_lacks(
    machine: Hierarchies, tmp_path: Path
) -> None:
    cg = tmp_path / "cg"
    assert machine.v2 == cg / "unified"
    assert dict(machine.v1) == {"cpu": cg / "cpu,cpuacct", "memory": cg / "memory"}
    (cg / "unified/cgroup.controllers").write_text("cpu memory pids\n")
    assert dict(Hierarchies.of_machine(tmp_path / "mounts").v1) == {}


def test_no_version_2_is_said_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    with pytest.raises(SandboxError, match="mount -t cgroup2"):
        Hierarchies.of_machine(tmp_path / "mounts")


def test_a_limit_costs_a_directory_only_where_asked_for(
    machine: Hierarchies, tmp_path: Path
) -> None:
    groups = Cgroups(machine, "me")
    groups.prepare()
    assert groups.limits == {"cpu", "memory"}
    assert groups.plan("a", Resources()).joins == ()
    plan = groups.plan("a", Resources(cpu=0.5, memory_mb=64, pids=9))
    assert plan.enforced == ("cpu", "memory")
    assert plan.joins == (
        tmp_path / "cg/cpu,cpuacct/rollout/me/a",
        tmp_path / "cg/memory/rollout/me/b1/a",
    )
    assert (plan.joins[0] / "cpu.cfs_quota_us", "50000") in plan.writes
    assert (plan.joins[1] / "memory.limit_in_bytes", str(64 << 20)) in plan.writes


def test_living_owners_are_spared_and_dead_ones_swept(machine: Hierarchies, tmp_path: Path) -> None:
    root = tmp_path / "root"
    living = Owner.claim(root, machine)
    dead = Owner.claim(root, machine)
    (dead.folder / "b/x").mkdir()
    os.close(dead._lock)
    heir = Owner.claim(root, machine)
    assert living.folder.exists()
    assert not dead.folder.exists()
    assert len({living.id, dead.id, heir.id}) == 3
    heir.release()
    heir.release()
    living.release()
    assert list((root / "owners").iterdir()) == []


def test_groups_whose_owner_folder_is_gone_are_swept(machine: Hierarchies, tmp_path: Path) -> None:
    root = tmp_path / "root"
    owner = Owner.claim(root, machine)
    mine = machine.v1["memory"] / "rollout" / owner.id
    (mine / "a").mkdir(parents=True)
    foreign = machine.v1["memory"] / "rollout/other-root"
    foreign.mkdir()
    owner.release()
    Owner.claim(root, machine).release()
    assert not mine.exists()
    assert foreign.exists()


def test_sweep_names_whom_it_swept(tmp_path: Path) -> None:
    owner = Owner.claim(tmp_path, Hierarchies.of_machine())
    assert sweep(tmp_path) == ()
    os.close(owner._lock)
    assert sweep(tmp_path) == (owner.id,)


def test_slots_of_two_processes_never_meet(tmp_path: Path) -> None:
    first = Slots(uid_base=1_000_000, max_slots=2 * SLOTS_PER_BLOCK, folder=tmp_path)
    second = Slots(uid_base=1_000_000, max_slots=2 * SLOTS_PER_BLOCK, folder=tmp_path)
    mine = {first.take() for _ in range(SLOTS_PER_BLOCK)}
    others = {second.take() for _ in range(SLOTS_PER_BLOCK)}
    assert len(mine | others) == 2 * SLOTS_PER_BLOCK
    assert all((uid - 1_000_000) % RANGE == 0 for uid in mine | others)
    with pytest.raises(SandboxError, match="max_slots"):
        first.take()
    second.close()
    assert first.take() in others
    first.give(min(mine))
    first.give(max(mine))
    assert first.take(min(mine)) == min(mine)
    first.close()


def test_trees_of_any_depth_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "link").symlink_to(kept)
    handle = os.open(bad, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=handle)
        deeper = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.close(handle)
    remove_tree(bad)
    assert not bad.exists()
    assert (kept / "file").read_text() == "x"
    remove_tree(bad)
