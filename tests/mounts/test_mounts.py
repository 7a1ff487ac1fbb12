"""Mounts of files and objects, and every slip in one error."""

from pathlib import Path

import pytest

from rollout.config import ObjectsConf
from rollout.errors import ConfigError
from rollout.mounts import resolve
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.types import BuildStep, Tree, TreeEntry


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_objects(ObjectsConf(uri=str(tmp_path / "objects")), root_dir=str(tmp_path / "root"))


def test_files_and_objects_become_steps(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\n")
    object_id = objects.put_tree(Tree.of({"data": b"1"}))
    found = resolve(
        [
            {"kind": "file", "dest": "/etc/app.toml", "content": "a = 1\n", "owner": "app:app"},
            {
                "kind": "file",
                "dest": "/usr/local/bin/go",
                "source": str(tmp_path / "script"),
                "mode": "755",
                "at": "build",
            },
            {"kind": "object", "id": object_id, "dest": "/data"},
        ],
        objects,
    )
    assert found.launch == (
        BuildStep(
            op="put",
            dest="/etc",
            tree=Tree((TreeEntry("app.toml", "file", 0o644, b"a = 1\n"),)),
            owner="app:app",
        ),
        BuildStep(op="object", dest="/data", object_id=object_id),
    )
    assert found.baked == (
        BuildStep(
            op="put",
            dest="/usr/local/bin",
            tree=Tree((TreeEntry("go", "file", 0o755, b"#!/bin/sh\n"),)),
        ),
    )


def test_all_slips_are_told_at_once(objects: ObjectStore) -> None:
    mounts = [
        {"kind": "fil", "dest": "/x"},
        {"kind": "file", "dest": "x", "content": 3, "mode": "999"},
        {"kind": "object", "id": "abc", "dest": "/a/../b", "at": "launhc", "ownr": "x"},
        {"kind": "file", "dest": "/x"},
        "file",
    ]
    with pytest.raises(ConfigError) as caught:
        resolve(mounts, objects)  # type: ignore[arg-type]
    told = str(caught.value)
    for said in (
        "mounts[0].kind: 'fil'",
        "mounts[1].dest: 'x' must be an absolute path",
        "mounts[1].content: must be a text, was 3",
        "mounts[1].mode: '999'",
        "mounts[2].id: 'abc'",
        "mounts[2].dest: '/a/../b'",
        "mounts[2].at: 'launhc' is none of launch, build",
        'mounts[2].ownr: unknown key; did you mean "owner"?',
        "mounts[3].content: give either",
        "mounts[4].kind: a mount is a mapping",
    ):
        assert said in told, told


def test_what_is_missing_outside_is_told_by_mount(objects: ObjectStore) -> None:
    gone = {"kind": "object", "id": f"sha256:{'0' * 64}", "dest": "/x"}
    with pytest.raises(ConfigError) as caught:
        resolve([gone, {"kind": "file", "dest": "/x", "source": "/nowhere"}], objects)
    assert "mounts[0]: object sha256:000" in str(caught.value)
    assert "mounts[1]: source: '/nowhere' is no file" in str(caught.value)


def test_a_folder_of_the_host_is_an_object_by_its_content(
    objects: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "skill").mkdir()
    (tmp_path / "skill" / "SKILL.md").write_text("x")
    mount = {"kind": "folder", "source": str(tmp_path / "skill"), "dest": "/opt/skills/skill"}
    (step,) = resolve([mount], objects).launch
    assert (step.op, step.dest) == ("object", "/opt/skills/skill")
    assert [entry.path for entry in objects.read_tree(step.object_id).entries] == ["SKILL.md"]
    (tmp_path / "skill" / "SKILL.md").write_text("y")
    assert resolve([mount], objects).launch[0].object_id != step.object_id
    with pytest.raises(ConfigError, match=r"mounts\[0\]: source: '/nowhere' is no folder"):
        resolve([{**mount, "source": "/nowhere"}], objects)
