"""From image names to bases, and what a blueprint's steps mean."""

import pytest

from rollout.blueprints import check_images, find_base
from rollout.errors import BuildError, ConfigError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.steps import apply_steps, image_settings
from rollout.types import Blueprint, BuildStep, Tree


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
        (BuildStep(op="run"), "blueprint 'bad', step 2 of 2: 'run' is none of"),
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
