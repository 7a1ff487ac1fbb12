"""A run whose end states a model judges: rewards, and a judge that fails for some of them."""

import json
from pathlib import Path

import pytest

from tests.e2e.test_models import rows, started
from tests.forked import Forked

pytestmark = pytest.mark.native

GOOD = {"text": json.dumps({"reasoning": "as asked", "grades": {"grade": 0.5}})}
VERDICTS = {
    "rules": [
        {"when": "Write hello", "turns": [{"text": "Nice."}, GOOD]},
        {"turns": [{"text": "I would rather not say."}]},
    ]
}
"""Half a reward for one of the tasks, at the second attempt."""


def test_a_judge_that_gives_no_verdict_is_no_zero(tmp_path: Path, forked: Forked) -> None:
    (tmp_path / "verdicts.json").write_text(json.dumps(VERDICTS))
    done = started(
        forked,
        tmp_path,
        "model.script=solves.json",
        *("scorer=judge", "scorer.rubric=done as asked", "scorer.files=[/app/out.txt]"),
        *("scorer.model.kind=scripted", "scorer.model.name=strict", "scorer.model.urls=[]"),
        *("+scorer.model.script=verdicts.json", "scorer.attempts=2"),
        *("retry.max_attempts=2", "retry.backoff_s=0.1", "samples=2"),
    )
    assert done.returncode == 1, done.stderr
    assert "2 ended without a reward" in done.stdout
    *count, hello, again = rows(tmp_path)
    for row in (hello, again):
        assert (row["task_id"], row["outcome"], row["reward"]) == ("greet", "ok", 0.5)
        assert "as asked" in row["scorer_output"]
    for row in count:
        assert (row["outcome"], row["reward"]) == ("judge_error", None)
        assert "no verdict of the judge strict in 2 attempts" in row["error_message"]
        assert len(row["attempts"]) == 2
