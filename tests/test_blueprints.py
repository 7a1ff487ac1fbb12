"""From image names to bases, and what a blueprint's steps mean."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from rollout.blueprints import check_images, find_base, pin_bases
from rollout.config import EngineConf
from rollout.errors import BuildError, ConfigError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.bases import parse_base
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.steps import apply_steps, image_settings
from rollout.types import Blueprint, BuildStep, Dockerfile, Task, Tree, Verifier


@pytest.mark.parametrize(
    ("image", "base"),
    [
        ("python:3.11-slim", "host"),
        ("docker.io/library/python:3.11-slim", "host"),
        ("library/python:3.11-slim", "host"),
        ("python:3.12", "globbed"),
        ("ubuntu", "latest"),
        ("ubuntu:latest", "latest"),
        ("registry.example:5000/a/b", "ported"),
        ("a@sha256:ff", "pinned"),
        ("host", "host"),
    ],
)
def test_find_base(image: str, base: str) -> None:
    images = {
        "python:*": "globbed",
        "python:3.11-slim": "host",
        "ubuntu": "latest",
        "registry.example:5000/a/b:latest": "ported",
        "a@sha256:ff": "pinned",
    }
    assert find_base(image, images) == base


def test_an_unknown_image_shows_the_line_to_add() -> None:
    with pytest.raises(ConfigError, match=r'task.images: \{"debian:13": host\}'):
        find_base("debian:13", {"debian:12": "host"})


def test_check_images() -> None:
    with pytest.raises(ConfigError, match="'a' is mapped to None"):
        check_images({"a": None})  # type: ignore[dict-item]


STEPS = (
    BuildStep(op="env", key="A", value="1"),
    BuildStep(op="workdir", dest="/app/in"),
    BuildStep(op="put", dest="/app", tree=Tree.of({"x": "X", "deep/y": "Y"})),
    BuildStep(op="user", value="nobody"),
    BuildStep(op="env", key="B", value="2"),
    BuildStep(op="env", key="A", value="3"),
)


def test_image_settings() -> None:
    assert image_settings(Blueprint()) == ((), "/", "root")
    assert image_settings(Blueprint(steps=STEPS, env=(("C", "4"),))) == (
        (("A", "3"), ("B", "2")),
        "/app/in",
        "nobody",
    )


async def test_steps_are_applied_in_order() -> None:
    engine = MemoryEngine()
    await engine.start()
    try:
        box = await engine.create(SandboxSpec(image=await engine.build(Blueprint())))
        await apply_steps(box, Blueprint(steps=STEPS))
        assert await box.read_file("/app/deep/y") == b"Y"
        assert (await box.exec(["pwd"], cwd="/app/in")).stdout == b"/app/in\n"
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (BuildStep(op="melt"), "blueprint 'bad', step 2 of 2: 'melt' is none of"),
        (
            BuildStep(op="put", dest="/app/x", tree=Tree.of({"y": ""})),
            r"blueprint 'bad', step 2 of 2 \(put 1 file in /app/x\)",
        ),
    ],
)
async def test_a_step_that_fails_is_named(step: BuildStep, said: str) -> None:
    engine = MemoryEngine()
    await engine.start()
    try:
        box = await engine.create(SandboxSpec(image=await engine.build(Blueprint())))
        blueprint = Blueprint(name="bad", steps=(STEPS[2], step))
        with pytest.raises(BuildError, match=said):
            await apply_steps(box, blueprint)
    finally:
        await engine.close()


# ---------------------------------------------------------------- fingerprints of bases


def on(base: str, *, verifier: str = "") -> Task:
    own = Blueprint(base=verifier) if verifier else None
    return Task(
        id=f"on {base}",
        instruction="x",
        blueprint=Blueprint(base=base),
        verifier=Verifier(blueprint=own),
    )


NATIVE = NativeEngine(EngineConf(kind="native"))


def test_a_rootfs_is_pinned_to_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "rootfs"
    folder.mkdir()
    (folder / "file").write_text("1")
    tasks = [on("host"), on(f"rootfs:{folder}", verifier=f"rootfs:{folder}")]
    host, first = pin_bases(tasks, NATIVE)
    assert host == tasks[0]
    assert re.fullmatch(rf"rootfs:{folder}@sha256:[0-9a-f]{{64}}", first.blueprint.base)
    assert first.verifier.blueprint == Blueprint(base=first.blueprint.base)
    assert pin_bases(tasks, NATIVE)[1] == first
    assert pin_bases([first], NATIVE) == [first]
    (folder / "file").write_text("12")
    changed = pin_bases(tasks, NATIVE)[1]
    assert changed.digest != first.digest
    assert changed.blueprint.image_digest != first.blueprint.image_digest


def test_an_archive_is_pinned_to_its_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"1")
    digest = hashlib.sha256(b"1").hexdigest()
    (pinned,) = pin_bases([on(f"rootfs:{archive}")], NATIVE)
    assert pinned.blueprint.base == f"rootfs:{archive}@sha256:{digest}"


def test_bases_that_are_wrong_are_told_of_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    bad = [
        "rootfs:/no/such",
        "rotfs:/x",
        "rootfs:x",
        f"rootfs:{tmp_path}",
        "host@sha256:" + "0" * 64,
    ]
    with pytest.raises(ConfigError) as told:
        pin_bases([on(base) for base in [*bad, "host"]], NATIVE)
    lines = str(told.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"task on {base}" for base in bad]
    for line, said in zip(
        lines,
        ["No such file", "is none of host", "must be absolute", "'fifo' is a fifo", "be pinned"],
        strict=True,
    ):
        assert said in line


def test_bases_that_the_engine_does_not_have() -> None:
    assert pin_bases([on("host-frozen")], MemoryEngine()) == [on("host-frozen")]
    with pytest.raises(ConfigError, match="the engine memory has only host, host-frozen"):
        pin_bases([on("rootfs:/srv")], MemoryEngine())


def test_bases_are_spelt_one_way() -> None:
    pin = "@sha256:" + "0" * 64
    for text in ("host", "host-frozen", f"host-frozen{pin}", "rootfs:/a@b:c", f"rootfs:/a@b{pin}"):
        assert str(parse_base(text)) == text


def test_a_dockerfile_for_a_daemon_is_refused_where_there_is_none() -> None:
    whole = Dockerfile(text="FROM a\nFROM b\n", needs="environment/Dockerfile:2: a second FROM")
    task = Task(id="staged", instruction="x", blueprint=Blueprint(dockerfile=whole))
    with pytest.raises(ConfigError) as told:
        pin_bases([task], NATIVE)
    assert str(told.value) == (
        "task staged: environment/Dockerfile:2: a second FROM: only a Docker daemon can build "
        "that; use engine=docker"
    )
