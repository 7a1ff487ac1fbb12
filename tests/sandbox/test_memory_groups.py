"""Plans of control groups, on folders in place of the kernel's: who shares what, and its sum."""

from pathlib import Path

import pytest

from rollout.sandbox import cgroups
from rollout.sandbox.cgroups import Cgroups, Hierarchies, limits_in_sight
from rollout.sandbox.controllers import (
    CpuLimit,
    GroupedMemoryLimit,
    MemoryLimit,
    PidsLimit,
    Use,
    killed_for_memory,
)
from rollout.types import Resources

MIB = 1 << 20


@pytest.fixture
def hybrid(tmp_path: Path) -> Hierarchies:
    """Memory in version 1, with swap accounting, and nothing in version 2."""
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/cgroup.controllers").write_text("hugetlb\n")
    (tmp_path / "memory/rollout/me").mkdir(parents=True)
    (tmp_path / "memory/rollout/me/memory.memsw.limit_in_bytes").write_text("")
    (tmp_path / "pids").mkdir()
    return Hierarchies(tmp_path / "v2", {n: tmp_path / n for n in ("memory", "pids")})


@pytest.fixture
def unified(tmp_path: Path) -> Hierarchies:
    """All in version 2."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
    return Hierarchies(tmp_path, {})


def prepared(hierarchies: Hierarchies, memory: str, size: int = 2) -> Cgroups:
    made = Cgroups(hierarchies, "me", memory=memory, group_size=size)
    made.prepare()
    return made


def handed_down(folder: Path) -> str:
    return (folder / "cgroup.subtree_control").read_text()


def test_a_group_of_version_1_is_joined_and_holds_the_sum(
    hybrid: Hierarchies, tmp_path: Path
) -> None:
    groups = prepared(hybrid, "group")
    one = groups.plan("a", Resources(memory_mb=100, pids=9))
    two = groups.plan("b", Resources(memory_mb=28))
    three = groups.plan("c", Resources(memory_mb=1))
    g1, g2 = tmp_path / "memory/rollout/me/g1", tmp_path / "memory/rollout/me/g2"
    assert (one.shared, two.shared, three.shared) == ((g1,), (g1,), (g2,))
    assert one.enforced == ("memory (group)", "pids")
    assert one.joins == (tmp_path / "pids/rollout/me/a",)
    assert one.directories == (tmp_path / "v2/rollout/me/a", *one.joins)
    assert one.data_limit_bytes == 100 * MIB
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    assert one.writes[:2] == tuple((g1 / name, str(100 * MIB)) for name in names)
    # A limit is raised from its top: without swap it may never be above the one with it.
    assert two.writes == tuple((g1 / name, str(128 * MIB)) for name in reversed(names))


def test_a_group_shrinks_with_those_who_leave_and_ends_with_the_last(
    hybrid: Hierarchies, tmp_path: Path
) -> None:
    groups = prepared(hybrid, "group")
    for name, memory_mb in (("a", 100), ("b", 28)):
        groups.plan(name, Resources(memory_mb=memory_mb))
    left = groups.leave("a")
    assert left is not None
    left.settle()
    g1 = tmp_path / "memory/rollout/me/g1"
    assert (g1 / "memory.limit_in_bytes").read_text() == str(28 * MIB)
    assert (g1 / "memory.memsw.limit_in_bytes").read_text() == str(28 * MIB)
    assert groups.plan("c", Resources(memory_mb=2)).shared == (g1,)
    assert groups.leave("stranger") is None
    groups.leave("c")
    last = groups.leave("b")
    assert last is not None
    assert (last.folder, last.members) == (g1, {})
    # Whoever comes next has a new one, for this one is being removed.
    assert groups.plan("d", Resources(memory_mb=2)).shared != (g1,)


def test_in_version_2_only_limited_sandboxes_have_a_memory_directory(
    unified: Hierarchies, tmp_path: Path
) -> None:
    groups = prepared(unified, "each")
    top = tmp_path / "rollout/me"
    limited = groups.plan("a", Resources(memory_mb=64, cpu=0.5))
    free = groups.plan("b", Resources(pids=7))
    assert limited.v2 == top / "a"
    assert (top / "a/memory.max", str(64 * MIB)) in limited.writes
    assert (top / "a/memory.swap.max", "0") in limited.writes
    assert (top / "a/cpu.max", "50000 100000") in limited.writes
    assert free.v2 == top / "unlimited/b"
    assert free.writes == ((top / "unlimited/b/pids.max", "8"),)
    assert handed_down(top / "unlimited") == "+pids"  # the last of two; a real file keeps both
    assert (limited.joins, free.joins) == ((), ())


def test_a_group_of_version_2_is_the_folder_around_its_members(
    unified: Hierarchies, tmp_path: Path
) -> None:
    groups = prepared(unified, "group")
    g1 = tmp_path / "rollout/me/g1"
    one = groups.plan("a", Resources(memory_mb=64, pids=3))
    two = groups.plan("b", Resources(memory_mb=32))
    assert (one.v2, two.v2) == (g1 / "a", g1 / "b")
    assert set(one.writes) >= {(g1 / "memory.max", str(64 * MIB)), (g1 / "a/pids.max", "4")}
    assert (g1 / "memory.max", str(96 * MIB)) in two.writes
    assert (one.shared, one.joins) == ((), ())
    assert "memory" not in handed_down(g1)
    assert groups.plan("c", Resources()).v2 == tmp_path / "rollout/me/unlimited/c"


def test_auto_shares_only_beyond_a_number_of_live_ones(
    hybrid: Hierarchies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "EACH_UP_TO", 2)
    groups = prepared(hybrid, "auto")
    plans = [groups.plan(name, Resources(memory_mb=8)) for name in "abc"]
    assert [plan.enforced for plan in plans] == [("memory",), ("memory",), ("memory (group)",)]
    assert groups.leave("a") is None
    assert groups.plan("d", Resources(memory_mb=8)).enforced == ("memory",)


def test_limits_are_seen_without_making_anything(hybrid: Hierarchies, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"cgroup2 {tmp_path}/v2 cgroup2 rw 0 0\nnone {tmp_path}/memory cgroup rw,memory 0 0\n"
    )
    before = sorted(tmp_path.rglob("*"))
    assert limits_in_sight(mounts) == {"memory"}
    (tmp_path / "v2/cgroup.controllers").write_text("cpu pids\n")
    assert limits_in_sight(mounts) == {"cpu", "memory", "pids"}
    assert sorted(tmp_path.rglob("*")) == before
    mounts.write_text("")
    assert limits_in_sight(mounts) == frozenset()


# ---------------------------------------------------------------- what the kernel counts


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_what_was_killed_for_the_whole_machine_is_no_limit_run_into(tmp_path: Path) -> None:
    v1 = fill(
        tmp_path / "v1",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        memory__max_usage_in_bytes=str(40 * MIB),
        memory__limit_in_bytes=str(64 * MIB),
    )
    assert killed_for_memory(v1, in_v2=False) == 0
    fill(v1, memory__max_usage_in_bytes=str(64 * MIB - 4096))
    assert killed_for_memory(v1, in_v2=False) == 2
    v2 = fill(tmp_path / "v2", memory__events="low 0\nhigh 0\nmax 9\noom 0\noom_kill 3\n")
    assert killed_for_memory(v2, in_v2=True) == 0
    fill(v2, memory__events="low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\n")
    assert killed_for_memory(v2, in_v2=True) == 3


def test_reasons_give_the_count_the_limit_and_the_use(tmp_path: Path) -> None:
    v2 = fill(
        tmp_path / "v2",
        memory__events="oom 1\noom_kill 3\n",
        memory__current=str(50 * MIB),
        memory__stat=f"anon 1\ninactive_file {20 * MIB}\n",
        pids__events="max 4\n",
        pids__current="8\n",
        cgroup__procs="",
    )
    memory = MemoryLimit(v2, 64, in_v2=True)
    assert memory.reason() == "3 of its processes killed at the limit of 64 MiB; 30 MiB held now"
    assert memory.use() == Use(50 / 64, "50 of 64 MiB")
    fill(v2, memory__current=str(60 * MIB))
    assert memory.use() == Use(40 / 64, "40 of 64 MiB")
    pids = PidsLimit(v2, 8)
    assert pids.reason() == "4 times refused a new process at the limit of 8; 7 run now"
    assert pids.use() == Use(7 / 8, "7 of 8 processes")
    grouped = GroupedMemoryLimit(v2, 64, in_v2=True, sandbox=v2, killed_before=1)
    assert grouped.reason().startswith("2 processes of its memory group killed")
    assert GroupedMemoryLimit(v2, 64, True, v2, killed_before=3).reason() == ""
    gone = tmp_path / "gone"
    limits = (MemoryLimit(gone, 64, False), PidsLimit(gone, 8), CpuLimit(gone, 1, False))
    assert [limit.reason() for limit in limits] == ["", "", ""]


def test_cpu_is_told_by_the_share_of_periods_held_back(tmp_path: Path) -> None:
    limit = CpuLimit(tmp_path, 0.5, in_v2=True)
    (tmp_path / "cpu.stat").write_text("usage_usec 9\nnr_periods 9\nnr_throttled 9\n")
    assert limit.use() is None
    (tmp_path / "cpu.stat").write_text("usage_usec 9\nnr_periods 20\nnr_throttled 10\n")
    assert limit.use() == Use(0.5, "held back in 10 of 20 periods, limit 0.5 cores")
    (tmp_path / "cpu.stat").write_text("usage_usec 9\nnr_periods 40\nnr_throttled 29\n")
    use = limit.use()
    assert use is not None
    assert use.share == 19 / 20
