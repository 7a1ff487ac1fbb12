"""A blueprint in users' words, to the recipe that engines know."""

from pathlib import Path
from typing import Any

import pytest

from rollout.config import BlueprintConf, DockerfileConf, ResourcesConf, limits_of
from rollout.errors import ConfigError
from rollout.tasks.blueprint import overlaid, read_foundation, read_launch, with_additions
from rollout.types import Blueprint, BuildStep, Secret, Tree, TreeEntry


def conf(**words: Any) -> BlueprintConf:
    return overlaid(BlueprintConf(), words)


def read(folder: Path, **words: Any) -> Blueprint:
    return read_foundation(conf(**words), name="mine", folder=folder)


def run(command: str, **more: Any) -> BuildStep:
    return BuildStep(op="run", argv=("/bin/sh", "-c", command), **more)


def test_every_step(tmp_path: Path) -> None:
    (tmp_path / "src/in").mkdir(parents=True)
    (tmp_path / "src/in/a").write_text("A")
    (tmp_path / "b.sh").write_text("B")
    found = read(
        tmp_path,
        base="host-frozen",
        secrets={"token": "TOKEN"},
        build_network="host",
        user="nobody",
        steps=[
            {"workdir": "/w"},
            {"run": "make"},
            {"run": {"command": "get", "env": {"A": 1}, "secrets": ["token"]}},
            {"copy": {"from": "src", "to": "src", "owner": "7:7"}},
            {"copy": {"from": ["b.sh", "src/in/a"], "to": "/bin/", "mode": "755"}},
            {"env": {"A": "b", "C": "d"}},
            {"user": "daemon"},
            {"workdir": "deep"},
        ],
    )
    tree = Tree((TreeEntry("in", "dir", 0o755), TreeEntry("in/a", "file", 0o644, b"A")))
    both = Tree((TreeEntry("b.sh", "file", 0o755, b"B"), TreeEntry("a", "file", 0o755, b"A")))
    assert found == Blueprint(
        name="mine",
        base="host-frozen",
        build_network="host",
        secrets=(("token", "TOKEN"),),
        user="nobody",
        steps=(
            BuildStep(op="workdir", dest="/w"),
            run("make"),
            run("get", env=(("A", "1"),), secrets=(Secret(id="token", required=True),)),
            BuildStep(op="put", dest="/w/src", tree=tree, owner="7:7"),
            BuildStep(op="put", dest="/bin", tree=both),
            BuildStep(op="env", key="A", value="b"),
            BuildStep(op="env", key="C", value="d"),
            BuildStep(op="user", value="daemon"),
            BuildStep(op="workdir", dest="/w/deep", owner="daemon"),
        ),
    )


def test_where_processes_begin(tmp_path: Path) -> None:
    """The blueprint says, else its steps or its image do, and where nobody can it is /app."""
    made = BuildStep(op="workdir", dest="/app")
    assert read(tmp_path).steps == (made,)
    assert read(tmp_path, base="image:x").steps == ()
    assert [step.dest for step in read(tmp_path, steps=[{"workdir": "x"}]).steps] == ["/x"]
    moved = read(tmp_path, steps=[{"run": "ls"}, {"workdir": "x"}], workdir="/y").steps
    assert [step.dest for step in moved] == ["/y", "", "/y/x", "/y"]


def test_a_dockerfile_and_steps_after_it(tmp_path: Path) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx/a").write_text("A")
    (tmp_path / "Dockerfile").write_text("FROM debian:12\nWORKDIR /srv\nCOPY a .\n")
    said = {"path": "Dockerfile", "context": "ctx", "images": {"debian:*": "host"}}
    found = read(tmp_path, dockerfile=said, steps=[{"run": "ls"}])
    assert found.base == "host"
    assert [step.op for step in found.steps] == ["workdir", "put", "run"]
    (tmp_path / "ctx/a").write_text("B")
    assert read(tmp_path, dockerfile=said).image_digest != found.image_digest


def test_a_kept_state_is_laid_over_what_it_was_kept_on_and_nothing_else(tmp_path: Path) -> None:
    words: dict[str, Any] = {"steps": [{"run": "make"}], "build_network": "host"}
    first = {"object": f"sha256:{'1' * 64}", "below": read(tmp_path, **words).image_digest}
    on_first = read(tmp_path, states=[first], **words)
    assert on_first.steps[-1] == BuildStep(op="state", object_id=first["object"])
    second = {"object": f"sha256:{'2' * 64}", "below": on_first.image_digest}
    assert len(read(tmp_path, states=[first, second], **words).steps) == len(on_first.steps) + 1
    changed = {**words, "build_network": "none"}
    for states in ([second, first], [second]):
        with pytest.raises(ConfigError, match=r"blueprint\.states\[0\]: base or steps are others"):
            read(tmp_path, states=states, **words)
    with pytest.raises(ConfigError, match="others than it was kept on"):
        read(tmp_path, states=[first], **changed)


def test_what_every_task_of_a_run_gets() -> None:
    launch = read_launch(conf(launch_commands=["serve &", "touch x"]))
    added = Blueprint(launch=launch, ready="test -e x", secrets=(("b", "B"),))
    own = Blueprint(name="own", launch=(run("first"),), steps=(run("make"),), ready="test -e y")
    assert with_additions(own, added) == Blueprint(
        name="own",
        secrets=(("b", "B"),),
        steps=(run("make"),),
        launch=(run("first"), run("serve &"), run("touch x")),
        ready="test -e x",
    )
    assert with_additions(own, Blueprint()) == own


def test_limits_come_from_the_nearest_that_says_one() -> None:
    said = conf(size="medium", resources={"cpu": 3})
    assert limits_of(said, ResourcesConf(cpu=9, disk_mb=9, pids=9)) == ResourcesConf(
        cpu=3, memory_mb=4096, disk_mb=8192, pids=9
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"mount": []}, "blueprint.mount: unknown key; did you mean 'mounts'?"),
        ({"sudo": "yes"}, "blueprint.sudo: must be true or false, was 'yes'"),
        ({"resources": {"memory": 9}}, "blueprint.resources.memory: unknown key; did you mean"),
        ({"resources": 9}, "blueprint.resources: saw 9; use a map of keys and values"),
        ({"dockerfile": {"path": 1}}, "blueprint.dockerfile.path: must be a text"),
        ({"size": "smal"}, "blueprint.size: 'smal' is none of x_small"),
        ({"steps": [{"rum": "x"}]}, "blueprint.steps[0]: 'rum' is no step; did you mean 'run'?"),
        ({"steps": [{"run": "x", "env": {}}]}, "blueprint.steps[0]: saw {'run'"),
        ({"steps": [{"run": " "}]}, "blueprint.steps[0].run: needs a shell command"),
        ({"steps": [{"run": {"cmd": "x"}}]}, "blueprint.steps[0].run: 'cmd' is an unknown key"),
        (
            {"steps": [{"run": {"command": "x", "secrets": ["t"]}}], "secrets": {"tt": "T"}},
            "blueprint.steps[0].run: the secret 't' is none of blueprint.secrets",
        ),
        ({"steps": [{"copy": {"from": "nix", "to": "/"}}]}, "'nix' is not in the build context"),
        ({"steps": [{"copy": {"from": "../x", "to": "/"}}]}, "is outside of the build context"),
        ({"steps": [{"copy": {"to": "/"}}]}, "blueprint.steps[0].copy: needs from"),
        ({"steps": [{"env": ["A"]}]}, "blueprint.steps[0].env: saw ['A']"),
        ({"steps": [{"user": "a:b"}]}, "blueprint.steps[0].user: saw 'a:b'"),
        ({"states": [{"object": "x", "below": ""}]}, "blueprint.states[0]: saw {'object': 'x'"),
        ({"workdir": "app"}, "blueprint.workdir: saw 'app'; use an absolute path"),
        ({"dockerfile": {"path": "Nofile"}}, "blueprint.dockerfile.path: "),
        ({"dockerfile": {"args": {"A": "b"}}}, "blueprint.dockerfile.path: must be given"),
    ],
)
def test_slips_are_told_by_key(tmp_path: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **words)
    assert said in str(caught.value)


def test_all_slips_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, steps=[{"user": ""}, {"run": "ok"}, {"run": ""}], workdir="x")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "blueprint.workdir",
        "blueprint.steps[0].user",
        "blueprint.steps[2].run",
    ]
    with pytest.raises(ConfigError, match=r"launch_commands\[1\]: is empty"):
        read_launch(conf(launch_commands=["x", " "]))


def test_a_base_and_a_dockerfile_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM host\n")
    words = BlueprintConf(base="rootfs:/x", dockerfile=DockerfileConf(path="Dockerfile"))
    with pytest.raises(ConfigError, match=r"blueprint\.base: leave it off"):
        read_foundation(words, name="x", folder=tmp_path)
