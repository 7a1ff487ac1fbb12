"""Skills: what is one, what is read out of it, and a run whose agent uses one."""

import re
from pathlib import Path

import pytest

from rollout.agents.bash import Bash
from rollout.agents.command import Command
from rollout.agents.skills import FOLDER, description_of, mounts_of
from rollout.errors import ConfigError
from tests.e2e.test_models import rows, started
from tests.forked import Forked

SKILL = "---\nname: x\ndescription: What it is for.\n---\nDo it."


def skill(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(SKILL)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (SKILL, "What it is for."),
        ("---\ndescription: 'quoted: yes'\nname: x\n---\n", "quoted: yes"),
        ("---\ndescription: >-\n  over two\n  lines\nname: x\n---\n", "over two lines"),
        ("description: no head", ""),
        ("---\nname: x\n---\ndescription: too late", ""),
        ("---\ndescription:\n---\n", ""),
        ("", ""),
    ],
)
def test_what_a_skill_is_for(text: str, description: str) -> None:
    assert description_of(text) == description


def test_a_description_without_end_is_clipped() -> None:
    assert len(description_of(f"---\ndescription: {'a' * 900_000}\n---\n")) < 2_000


def test_each_is_mounted_under_its_own_name(tmp_path: Path) -> None:
    one, two = skill(tmp_path / "one"), skill(tmp_path / "two")
    wanted = [
        {"kind": "folder", "source": path, "dest": f"{FOLDER}/{Path(path).name}"}
        for path in (one, two)
    ]
    assert list(Bash(skills=[one, two]).mounts()) == wanted
    harness = Command(name="x", command="x", install="npm:x@1", skills=[one, two])
    assert [mount["kind"] for mount in harness.mounts()] == ["agent", "folder", "folder"]
    assert not Command(name="x", command="x").mounts()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["none"], "is no folder with a SKILL.md"),
        (["a/x", "b/x"], "two are called 'x'"),
        (["a b"], "cannot name a skill"),
    ],
)
def test_what_is_no_skill_is_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    skills = [str(tmp_path / name) for name in names]
    for path in skills if names != ["none"] else []:
        skill(Path(path))
    with pytest.raises(ConfigError, match=re.escape(reason)):
        mounts_of(skills)


@pytest.mark.native
def test_the_built_in_agent_is_told_and_can_read_it(tmp_path: Path, forked: Forked) -> None:
    skill(tmp_path / "skills" / "greeting")
    script = (
        '{"rules": [{"turns": [{"run": "grep -q Do.it /opt/skills/greeting/SKILL.md && '
        'echo hello > out.txt"}, {"text": "Done."}]}]}'
    )
    (tmp_path / "reads.json").write_text(script)
    done = started(forked,
        tmp_path, "model.script=reads.json", "agent.skills=[skills/greeting]",
        "task.include=[greet]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert row["reward"] == 1.0
    system = row["messages"][0]["content"]
    assert system.endswith("- /opt/skills/greeting/SKILL.md: What it is for.")
