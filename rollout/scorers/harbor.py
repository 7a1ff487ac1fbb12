"""Harbor's verifier: tests/test.sh runs and leaves its rewards in a file."""

import json
import math
from typing import Any

from rollout.aio import Deadline
from rollout.errors import SandboxError, SandboxLost, ScoreError
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Verdict
from rollout.scorers.verdicts import (
    TEST_SCRIPT,
    TESTS,
    lay,
    no_verdict,
    printed,
    put_tests,
    run_to_end,
)
from rollout.tasks.trees import script_argv
from rollout.types import Score, Task, Tree, TreeEntry

LOGS = "/logs"
VERIFIER_LOGS = f"{LOGS}/verifier"
REWARD_FILES = ("reward.json", "reward.txt")
"""The first that is there counts."""
REWARD_LIMIT_BYTES = 64 << 10


class HarborVerifier:
    """Runs /tests/test.sh; `reward.json` (names to numbers) goes before `reward.txt` (a number).

    The reward is the one named `reward`, else the only one, else the mean of all. The script's
    exit code means nothing, as in Harbor.
    """

    def problems(self, task: Task) -> str | None:
        """Why the task cannot be scored this way, known before anything runs."""
        if TEST_SCRIPT not in task.tests.files():
            return f"task {task.id}: it has no tests/{TEST_SCRIPT} for the verifier to run"
        return None

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        if problem := self.problems(task):
            raise ScoreError(problem)
        with no_verdict(task):
            await put_tests(task, sandbox)
            signs = await _fresh_logs(task, sandbox)
            run = await run_to_end(
                task,
                sandbox,
                script_argv(task.tests, TEST_SCRIPT, TESTS),
                env=dict(task.verifier.env),
                shown=f"{TESTS}/{TEST_SCRIPT}",
                deadline=deadline,
            )
            try:
                rewards = await _read_rewards(sandbox)
            except ScoreError as exc:
                raise ScoreError(
                    f"task {task.id}: {exc}; test.sh ended with exit code "
                    f"{run.result.exit_code}; {printed(run.output)}"
                ) from exc
        scores = tuple(Score(name=name, value=value) for name, value in rewards.items())
        return Verdict(
            reward=_one_reward(rewards),
            scores=scores,
            output=run.output,
            integrity=(*signs, *run.signs),
        )


async def _fresh_logs(task: Task, sandbox: Sandbox) -> list[str]:
    """An empty /logs/verifier that belongs to whom the verifier runs as; the others as they are.

    A /logs that leads elsewhere is replaced, and told.
    """
    owner = task.verifier.user or sandbox.spec.user or sandbox.spec.image.user
    signs = []
    if (await sandbox.exec(["test", "-L", LOGS], cwd="/", user="root")).ok:
        await sandbox.remove(LOGS)
        signs.append(f"logs_replaced:{LOGS}")
    await sandbox.remove(VERIFIER_LOGS)
    shared = tuple(TreeEntry(name, "dir", 0o777) for name in ("agent", "artifacts"))
    await lay(sandbox, Tree(shared), LOGS)
    own = Tree((TreeEntry("verifier", "dir", 0o755),))
    await lay(sandbox, own, LOGS, owner=owner)
    return signs


async def _read_rewards(sandbox: Sandbox) -> dict[str, float]:
    for name in REWARD_FILES:
        try:
            data = await sandbox.read_file(
                f"{VERIFIER_LOGS}/{name}", limit_bytes=REWARD_LIMIT_BYTES
            )
        except FileNotFoundError:
            continue
        except SandboxLost:
            raise
        except SandboxError as exc:
            raise ScoreError(f"{name} cannot be read: {exc}") from exc
        return parse_rewards(name, data)
    raise ScoreError(
        f"no {' and no '.join(REWARD_FILES)} in {VERIFIER_LOGS}, "
        f"which holds {await _names(sandbox)}"
    )


async def _names(sandbox: Sandbox) -> str:
    try:
        tree = await sandbox.get_tree(VERIFIER_LOGS, limit_bytes=1 << 20, limit_entries=100)
    except FileNotFoundError:
        return "nothing: the folder is gone"
    except SandboxLost:
        raise
    except SandboxError as exc:
        return f"what cannot be listed ({exc})"
    return ", ".join(sorted(entry.path for entry in tree.entries)[:10]) or "nothing"


def parse_rewards(name: str, data: bytes) -> dict[str, float]:
    """The rewards in a reward file: at least one, all of them finite. ScoreError otherwise."""
    if not data.strip():
        raise ScoreError(f"{name} is empty")
    try:
        text = data.decode()
        if name.endswith(".txt"):
            return {"reward": _finite(name, "the reward", float(text))}
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ScoreError(f"{name} holds {_shown(data)}, no verdict: {exc}") from exc
    if not isinstance(found, dict) or not found:
        raise ScoreError(f"{name} holds {_shown(data)}; it must be an object of name to number")
    return {key: _finite(name, repr(key), value) for key, value in found.items()}


def _finite(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScoreError(f"{name}: {key} is {_shown(value)}, no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ScoreError(f"{name}: {key} is {_shown(value)}, not finite")
    return number


def _one_reward(rewards: dict[str, float]) -> float:
    if "reward" in rewards:
        return rewards["reward"]
    return math.fsum(value / len(rewards) for value in rewards.values())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
