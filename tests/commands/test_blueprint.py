"""`blueprint build | show | hash | bake`: what a name comes to, and what stays the same of it."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import rollout
from rollout.commands.blueprint import main
from rollout.config import EngineConf
from rollout.errors import ConfigError
from tests.sandbox.conftest import uid_base

Told = Callable[..., str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """What the verb prints, with the memory engine unless another is asked for."""

    def tell(*words: str) -> str:
        engine = [] if any(word.startswith("engine.") for word in words) else ["engine=memory"]
        assert main([*words, *engine]) == 0
        return capsys.readouterr().out

    return tell


def write(path: Path, **words: Any) -> str:
    path.write_text(yaml.safe_dump(words))
    return str(path)


# ---------------------------------------------------------------- hash


def test_the_same_inputs_have_one_hash_whatever_it_is_called(here: Path, told: Told) -> None:
    words: dict[str, Any] = {"steps": [{"run": "ls"}], "env": {"A": "b"}, "size": "small"}
    first = told("hash", write(here / "a.yaml", **words))
    assert len(first) == 65
    assert told("hash", write(here / "b.yaml", **words)) == first
    assert told("hash", write(here / "c.yaml", **{**words, "ready": "true"})) != first
    assert told("hash", write(here / "d.yaml", **{**words, "size": "large"})) != first


def test_another_content_of_a_file_is_another_hash(here: Path, told: Told) -> None:
    name = write(
        here / "a.yaml",
        steps=[{"copy": {"from": "copied", "to": "/app/"}}],
        mounts=[{"kind": "file", "dest": "/etc/x", "source": str(here / "mounted")}],
    )
    seen = set()
    for copied, mounted in (("1", "1"), ("2", "1"), ("2", "2")):
        (here / "copied").write_text(copied)
        (here / "mounted").write_text(mounted)
        seen.add(told("hash", name))
        assert told("hash", name) in seen
    assert len(seen) == 3


def test_another_content_of_a_base_is_another_hash(here: Path, told: Told) -> None:
    (here / "root/etc").mkdir(parents=True)
    native = f"engine.root_dir={here}/engine"
    first = told("hash", f"rootfs:{here}/root", native)
    assert told("hash", f"rootfs:{here}/root", native) == first
    (here / "root/etc/more").write_text("x")
    assert told("hash", f"rootfs:{here}/root", native) != first


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_a_ref_that_has_moved_is_another_hash(here: Path, told: Told) -> None:
    code = here / "code"
    code.mkdir()
    git(code, "init", "-b", "main")
    git(code, "commit", "--allow-empty", "-m", "one")
    mount = {"kind": "code", "source": str(code), "ref": "main", "dest": "/src"}
    name = write(here / "a.yaml", mounts=[mount])
    first = told("hash", name)
    assert told("hash", name) == first
    git(code, "commit", "--allow-empty", "-m", "two")
    assert told("hash", name) != first


# ---------------------------------------------------------------- show and build


def test_show_tells_what_is_baked_and_what_is_done_at_launch(here: Path, told: Told) -> None:
    name = write(
        here / "a.yaml",
        steps=[{"run": "make"}],
        mounts=[
            {"kind": "file", "dest": "/a/baked", "content": "x", "at": "build"},
            {"kind": "file", "dest": "/b/late", "content": "x"},
        ],
        launch_commands=["serve &"],
        ready="ping",
        size="small",
        secrets={"token": "TOKEN"},
        build_network="host",
        user="nobody",
    )
    lines = told("show", name).splitlines()
    wanted = [
        "base      host",
        "image     1. workdir /app",
        "          2. run /bin/sh -c make",
        "          3. put 1 file in /a",
        "launch    1. put 1 file in /b",
        "          2. run /bin/sh -c 'serve &'",
        "ready     ping",
        "agent is  nobody, in its workdir",
        "limits    cpu 1, memory MB 2048, disk MB 4096, pids 1024",
        "network   none; host while it is built",
        "secrets   token from $TOKEN",
    ]
    assert lines[0] == f"blueprint {name}"
    assert lines[1] == f"hash      {told('hash', name).strip()}"
    assert lines[2:] == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shw", "host"], 'blueprint shw: unknown; did you mean "show"?'),
        (["show"], "takes one NAME"),
        (["show", "host", "--sa", "x"], '--sa: unknown; did you mean "--as"?'),
        (["show", "host", "--as", "x"], "--as: belongs to bake"),
        (["show", "hots"], "blueprint: 'hots' is no option"),
        (
            ["show", "host", "blueprint.sise=small"],
            'blueprint.sise: unknown key; did you mean "size"',
        ),
        (["show", "rootfs:/x", "blueprint.size=small"], "is no option of conf/blueprint to change"),
        (["bake", "host", "--as", "default"], "default: there is a blueprint of this name"),
        (["bake", "host", "--as", "../x"], "'../x' cannot name an option"),
    ],
)
def test_slips(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main([*words, "engine=memory"])
    assert said in str(caught.value)


def test_build_shows_the_end_of_what_a_failed_command_said(here: Path) -> None:
    name = write(here / "a.yaml", steps=[{"run": "echo so far so good; cat /nowhere"}])
    with pytest.raises(rollout.RolloutError) as caught:
        main(["build", name, "engine=memory"])
    assert "step 2 of 2 (run /bin/sh -c 'echo so far" in str(caught.value)
    assert "so far so good\ncat: /nowhere" in str(caught.value)


# ---------------------------------------------------------------- bake


@pytest.fixture
def native(tmp_path: Path) -> EngineConf:
    return EngineConf(root_dir=str(tmp_path / "engine"), uid_base=uid_base(), max_slots=64)


async def tree_of(name: str, conf: EngineConf) -> tuple[Any, ...]:
    async with rollout.sandbox(name, engine=conf) as box:
        return tuple([await box.get_tree(folder) for folder in ("/app", "/srv", "/etc/own")])


@pytest.mark.native
def test_what_is_baked_has_the_same_files_and_stays_as_it_was(
    here: Path, told: Told, native: EngineConf
) -> None:
    (here / "source").write_text("as it was")
    name = write(
        here / "mine.yaml",
        steps=[{"run": "echo built > there"}],
        mounts=[
            {"kind": "file", "dest": "/etc/own/source", "source": str(here / "source")},
            {"kind": "file", "dest": "/etc/own/words", "content": "x", "owner": "7:8"},
        ],
        launch_commands=["cat /etc/own/source >> /app/there"],
        ready="test -s /app/there",
    )
    words = [f"engine.root_dir={native.root_dir}", f"engine.uid_base={native.uid_base}"]
    assert "wrote conf/blueprint/new.yaml" in told("bake", name, "--as", "new", *words)
    written = yaml.safe_load((here / "conf/blueprint/new.yaml").read_text())
    assert [mount["at"] for mount in written["mounts"]] == ["build", "build"]
    launched, baked = (asyncio.run(tree_of(each, native)) for each in (name, "new"))
    assert launched == baked
    shown = told("show", "new", *words)
    assert "launch    1. run /bin/sh -c 'cat /etc/own/source >> /app/there'" in shown
    before = told("hash", "new", *words)
    (here / "source").write_text("changed since")
    assert told("hash", "new", *words) == before
    assert told("build", "new", *words).count("layers") == 1
