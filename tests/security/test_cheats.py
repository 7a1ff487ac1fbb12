"""Scoring cannot be bought: what cheats earn from the real scorer, and from a naive one."""

import asyncio
import base64
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from rollout.agents.script import Script
from rollout.aio import Deadline
from rollout.capacity import Capacity
from rollout.config import EngineConf, ObjectsConf, PoolConf, TimeoutsConf
from rollout.episode import Bench, run_episode
from rollout.errors import SandboxError
from rollout.executor.engines import make_engine
from rollout.mounts import resolve
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.pool import WarmPool
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Scorer, Verdict
from rollout.scorers.harbor import HarborVerifier, parse_rewards
from rollout.scorers.integrity import kind_of
from rollout.types import (
    Arm,
    Blueprint,
    BuildStep,
    Lease,
    Output,
    Plugin,
    RolloutSpec,
    ScoreMode,
    Task,
    Trajectory,
    Tree,
    TreeEntry,
    Trust,
)
from tests.conftest import DEBIAN
from tests.sandbox.conftest import SLOTS, uid_base
from tests.security.cheats import CHEATS, FROM_HISTORY, GOLD, NOTHING, PRELOAD, Cheat

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASES = {"native": "host", "docker": f"image:{DEBIAN}"}
"""Engine to a base with Python 3 and a shell: a line here adds an engine to the suite."""

TEST_SH = """\
#!/bin/sh
cd /tests
if PYTHONPATH=/opt/pytest python3 -m pytest -q -p no:cacheprovider test_answer.py
then echo 1 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt
fi
"""
TEST_ANSWER = """\
import secrets
import subprocess


def answer(*numbers):
    done = subprocess.run(
        ["python3", "/app/answer.py", *map(str, numbers)],
        user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True,
        timeout=20,
    )
    return done.stdout.strip()


def test_known():
    assert answer(6, 7) == "42"


def test_unknown():
    left, right = secrets.randbelow(1000), secrets.randbelow(1000)
    assert answer(left, right) == str(left * right)
"""
"""What the agent wrote runs in processes of its own, as nobody: the tests' own memory, and the
reward's folder, are out of its reach."""

HARBOR_FOLDERS = Tree(
    tuple(TreeEntry(name, "dir", 0o777) for name in ("agent", "artifacts", "verifier"))
)
SPEC = RolloutSpec(
    trajectory_id="t" * 32, group_id="g" * 32, arm="a", task_id="product", sample=0, group_size=1
)
ARM = Arm(name="a", agent=Plugin(target="a.B"), scorer=Plugin(target="c.D"))
ROOM = Capacity(cpu=64, memory_mb=64_000, disk_mb=64_000, pids=64_000)
PATIENCE_S = 60.0


class NaiveScorer:
    """Lays the tests over what is there, and believes whatever says that there is a reward."""

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        await sandbox.put_tree(task.tests, "/tests")
        command = "mkdir -p /logs/verifier; chmod +x /tests/test.sh; exec /tests/test.sh"
        done = await sandbox.exec(["sh", "-c", command], timeout_s=PATIENCE_S)
        await asyncio.sleep(0.5)  # it looks for the reward now and then
        output = (done.stdout + done.stderr).decode(errors="replace")
        if printed := re.search(r"reward: (\d)", output):
            return Verdict(reward=float(printed[1]), scores=(), output=output)
        for name in ("reward.json", "reward.txt"):
            try:
                data = await sandbox.read_file(f"/logs/verifier/{name}")
            except (FileNotFoundError, SandboxError):
                continue
            return Verdict(reward=parse_rewards(name, data)["reward"], scores=(), output=output)
        return Verdict(reward=float(done.ok), scores=(), output=output)


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in BASES]
)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(kind: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    root_dir = str(tmp_path_factory.mktemp("root"))
    conf = EngineConf(kind=kind, root_dir=root_dir, uid_base=uid_base(), max_slots=SLOTS)
    engine = make_engine(conf, owner="cheats")
    await engine.start()
    pool = WarmPool(engine, PoolConf(), ROOM)
    await pool.start()
    yield Bench(engine=engine, pool=pool, timeouts=TimeoutsConf(), run_id="r", node="n", worker="w")
    assert pool.counts()["claimed"] == 0, "every sandbox was given back"
    await pool.close()
    await engine.close()


@pytest.fixture(scope="module")
def task(kind: str) -> Task:
    steps = (
        BuildStep(op="put", dest="/opt/pytest", tree=a_pytest()),
        BuildStep(op="run", argv=("python3", "-m", "compileall", "-q", "/opt/pytest")),
        BuildStep(op="put", dest="/logs", tree=HARBOR_FOLDERS),
        BuildStep(op="workdir", dest="/app"),
    )
    return Task(
        id="product",
        instruction="Write /app/answer.py, which prints the product of its two arguments.",
        blueprint=Blueprint(base=BASES[kind], steps=steps),
        tests=Tree.of({"test.sh": TEST_SH, "test_answer.py": TEST_ANSWER}),
        outputs=(Output(source="/app"),),
        agent_timeout_s=PATIENCE_S,
    )


def a_pytest() -> Tree:
    """This test run's own, as an image would bring it."""
    packages = Path(pytest.__file__).parent.parent
    files = {"py.py": (packages / "py.py").read_bytes()}
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        for path in sorted((packages / name).rglob("*.py")):
            files[str(path.relative_to(packages))] = path.read_bytes()
    return Tree.of({name: data for name, data in files.items() if not _is_odd_lexer(name)})


def _is_odd_lexer(name: str) -> bool:
    wanted = ("__init__.py", "_mapping.py", "python.py", "diff.py")
    return name.startswith("pygments/lexers/") and not name.endswith(wanted)


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that makes every Python end in peace before it begins, in base64."""
    folder = tmp_path_factory.mktemp("preload")
    (folder / "paid.c").write_text(
        "#include <string.h>\n#include <unistd.h>\n#include <errno.h>\n"
        "__attribute__((constructor)) static void paid(void)\n"
        '{ if (!strncmp(program_invocation_short_name, "python", 6)) _exit(0); }\n'
    )
    subprocess.run(
        ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Os", "-s", "-o", "paid.so", "paid.c"],
        cwd=folder,
        check=True,
    )
    return base64.b64encode((folder / "paid.so").read_bytes()).decode()


async def roll(
    bench: Bench,
    task: Task,
    script: str,
    mode: ScoreMode,
    *,
    trust: Trust = Trust.AS_DECLARED,
    naive: bool = False,
) -> Trajectory:
    arm = replace(ARM, score_mode=mode, trust=trust)
    lease = Lease(spec=SPEC, epoch=1, n=1, last=True)
    scorer: Scorer = NaiveScorer() if naive else HarborVerifier()
    return (await run_episode(lease, task, arm, Script(script=script), scorer, bench)).trajectory


def earned(row: Trajectory) -> tuple[str, float | None]:
    return row.outcome, row.reward


CLEAN = (ScoreMode.FORK, ScoreMode.FRESH)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
async def test_a_cheat_is_paid_by_the_naive_scorer_alone(
    bench: Bench, task: Task, cheat: Cheat, preload: str
) -> None:
    script = cheat.script.replace(PRELOAD, preload)
    naive, shared, *clean = await asyncio.gather(
        roll(bench, task, script, ScoreMode.SHARED, naive=True),
        roll(bench, task, script, ScoreMode.SHARED),
        *(roll(bench, task, script, mode) for mode in CLEAN),
    )
    assert earned(naive) == ("ok", 1.0), naive.scorer_output
    for row in clean:
        assert earned(row) == ("ok", 0.0), row.error_message or row.scorer_output
        assert {kind_of(sign) for sign in row.integrity} >= cheat.signs, row.integrity
    assert (shared.reward == 1.0) == cheat.beats_shared, shared.scorer_output


async def test_installed_software_counts_where_the_system_is_trusted(
    bench: Bench, task: Task
) -> None:
    """And so does what was tampered with, which is then only flagged."""
    install = (
        f"{GOLD} mv answer.py /usr/local/lib/tool.py\n"
        "echo 'import runpy; runpy.run_path(\"/usr/local/lib/tool.py\")' > answer.py\n"
    )
    (tamper,) = (cheat.script for cheat in CHEATS if cheat.name == "python3 replaced")
    scripts = (install, tamper)
    work, whole = [
        await asyncio.gather(
            *(roll(bench, task, script, ScoreMode.FORK, trust=trust) for script in scripts)
        )
        for trust in (Trust.WORKSPACE, Trust.SYSTEM)
    ]
    assert [row.reward for row in work] == [0.0, 0.0]
    assert [row.reward for row in whole] == [1.0, 1.0]
    (told,) = [event.detail for event in work[0].events if event.kind == "left_out"]
    assert "/usr/local/lib" in told
    assert [event.kind for event in whole[0].events] == []
    assert {kind_of(sign) for sign in whole[1].integrity} == {"system_file_changed"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task's code, and in a later commit, on another branch, what solves it."""
    folder = tmp_path_factory.mktemp("repository")
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    (folder / "README").write_text("To be done: answer.py\n")
    for words in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-qm", "start")):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    subprocess.run(["sh", "-c", GOLD], cwd=folder, check=True)
    for words in (("checkout", "-qb", "fix"), ("add", "."), ("commit", "-qm", "the fix")):
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    subprocess.run(["git", "checkout", "-q", "main"], cwd=folder, check=True)
    return folder


def copied(folder: Path) -> Tree:
    """The folder with its `.git`, as an image has it that somebody made by COPY."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Tree.of(files)


def mounted(folder: Path, objects: ObjectStore) -> Tree:
    """The same as a mount of code brings it."""
    mount = {"kind": "code", "source": str(folder), "ref": "main", "dest": "/app", "at": "build"}
    (step,) = resolve([mount], objects).baked
    return objects.read_tree(step.object_id)


async def test_a_later_commit_pays_unless_the_code_is_mounted(
    bench: Bench, task: Task, repository: Path, tmp_path: Path
) -> None:
    objects = open_objects(ObjectsConf(uri=str(tmp_path / "objects")), root_dir=str(tmp_path))
    rewards = []
    for code in (copied(repository), mounted(repository, objects)):
        step = BuildStep(op="put", dest="/app", tree=code)
        blueprint = replace(task.blueprint, steps=(*task.blueprint.steps, step))
        with_code = replace(task, blueprint=blueprint)
        rows = await asyncio.gather(
            *(roll(bench, with_code, FROM_HISTORY, mode) for mode in CLEAN),
            *(roll(bench, with_code, GOLD, mode) for mode in CLEAN),
        )
        assert {row.outcome for row in rows} == {"ok"}, rows[0].error_message
        rewards.append([row.reward for row in rows])
    assert rewards == [[1.0] * 4, [0.0, 0.0, 1.0, 1.0]]


async def test_honest_work_is_paid_and_none_is_not(bench: Bench, task: Task) -> None:
    modes = (*CLEAN, ScoreMode.SHARED)
    gold, nothing = [
        await asyncio.gather(*(roll(bench, task, script, mode) for mode in modes))
        for script in (GOLD, NOTHING)
    ]
    assert [earned(row) for row in gold] == [("ok", 1.0)] * 3, gold[0].scorer_output
    assert [earned(row) for row in nothing] == [("ok", 0.0)] * 3
    assert [row.integrity for row in (*gold, *nothing)] == [()] * 6
    assert [event for row in (*gold, *nothing) for event in row.events] == []
