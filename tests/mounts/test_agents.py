"""An agent of npm, PyPI, git or a tarball: one version recorded, and the same one inside."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.baking import baked_words, into_image
from rollout.config import BlueprintConf, EngineConf, ObjectsConf, RunConf
from rollout.errors import BuildError, ConfigError
from rollout.mounts import Resolved, resolve
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.recipes import Named
from rollout.sandbox.base import Engine, Sandbox
from rollout.sandbox.launching import launch
from rollout.sandbox.made import make_spec
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, Tree
from tests.mounts.registries import NAME, npm_files, pip_files, registries, tarball
from tests.mounts.test_code import commit, git
from tests.sandbox.conftest import uid_base

native = [
    pytest.mark.native,
    pytest.mark.skipif(not shutil.which("npm"), reason="needs npm"),
]


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_objects(ObjectsConf(uri=str(tmp_path / "objects")), root_dir=str(tmp_path / "root"))


@pytest.fixture
def sources(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The same agent, in five places, everywhere as version 1.2.3 among others."""
    repository = tmp_path / "agent"
    repository.mkdir()
    git(repository, "init", "-q")
    for path, text in npm_files("1.2.3").items():
        (repository / path).parent.mkdir(exist_ok=True)
        (repository / path).write_text(text)
    commit(repository, "an agent")
    git(repository, "tag", "v1.2.3")
    plain = Tree.of({f"bin/{NAME}": "#!/bin/sh\necho tell-agent v1.2.3\n"}, mode=0o755)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with registries("1.0.0", "1.2.3", "1.10.0", "2.0.0") as found:
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        yield {
            "npm": f"npm:{NAME}@1.2.3",
            "pypi": f"pypi:{NAME}==1.2.3",
            "git": f"git:{repository}@v1.2.3",
            "tarball": f"object:{objects.put_bytes(tarball(npm_files('1.2.3')))}",
            "sdist": f"object:{objects.put_bytes(tarball(pip_files('1.2.3'), f'{NAME}-1.2.3'))}",
            "plain": f"object:{objects.put_tree(plain)}",
        }


def agent(source: str, **more: Any) -> dict[str, Any]:
    version = {"version": "1.2.3"} if more.pop("plain", False) else {}
    return {"kind": "agent", "source": source, "name": NAME, **version, **more}


# ---------------------------------------------------------------- what a name means


def test_exact_versions_are_kept_and_all_else_is_resolved(
    objects: ObjectStore, sources: dict[str, str]
) -> None:
    def version(source: str) -> tuple[str, str]:
        ((name, found, where),) = resolve([agent(source)], objects).agents
        assert name == NAME
        return found, where

    assert version(sources["npm"]) == ("1.2.3", f"npm:{NAME}@1.2.3")
    assert version(sources["pypi"]) == ("1.2.3", f"pypi:{NAME}==1.2.3")
    assert version(f"npm:{NAME}@^1.0.0") == ("1.10.0", f"npm:{NAME}@1.10.0")
    assert version(f"npm:{NAME}") == ("2.0.0", f"npm:{NAME}@2.0.0")
    assert version(f"pypi:{NAME}<2") == ("1.10.0", f"pypi:{NAME}==1.10.0")
    repository = sources["git"].removeprefix("git:").partition("@")[0]
    head = git(Path(repository), "rev-parse", "HEAD")
    assert version(sources["git"]) == ("1.2.3", f"git:{repository}@{head}")
    assert version(sources["tarball"]) == ("1.2.3", sources["tarball"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "nmp:x"}, "must be npm:NAME@VERSION, pypi:NAME==VERSION"),
        ({"source": f"npm:{NAME}@^9"}, "^9"),
        ({"source": f"pypi:{NAME}>9"}, f"pip install {NAME}>9"),
        ({"source": "git:/nowhere"}, "names no ref"),
        ({"source": "object:sha256:abc"}, "is no id"),
        ({"source": "npm:x@1.0.0", "version": "1.0.0"}, "stands in the source"),
        ({"name": "A b"}, "lower-case letters"),
        ({"secrets": {"NPM_TOKEN": "not a name"}}, "secrets: must be variables"),
        ({"source": f"npm:{NAME}", "secrets": {"T": "ROLLOUT_UNSET"}}, "ROLLOUT_UNSET is not set"),
    ],
)
def test_slips_are_one_clear_line(
    objects: ObjectStore, sources: dict[str, str], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([agent(sources["npm"]) | change], objects)
    assert said in str(caught.value)
    assert "mounts[0]" in str(caught.value)


def test_a_folder_must_tell_what_it_is_and_its_version(objects: ObjectStore) -> None:
    nothing = objects.put_tree(Tree.of({"README": "hello"}))
    with pytest.raises(ConfigError, match=r"neither package.json, pyproject.toml"):
        resolve([agent(f"object:{nothing}")], objects)
    plain = objects.put_tree(Tree.of({"bin/x": "#!/bin/sh\n"}))
    with pytest.raises(ConfigError, match="version: must be given"):
        resolve([agent(f"object:{plain}")], objects)
    two = [agent(f"object:{plain}", version="1")] * 2
    with pytest.raises(ConfigError, match="two agents are called"):
        resolve(two, objects)


def test_what_is_baked_is_what_would_be_built_and_held_to_its_version(
    objects: ObjectStore, sources: dict[str, str]
) -> None:
    for source in (f"npm:{NAME}@^1.0.0", sources["git"], sources["sdist"]):
        at_launch = resolve([agent(source)], objects)
        built = blueprint(resolve([agent(source, at="build")], objects))
        assert into_image(blueprint(at_launch)) == built
        words = BlueprintConf(mounts=[agent(source)], build_network="host")
        rest = RunConf(blueprint=words, engine=EngineConf(kind="native"))
        found = Named(name="x", words=words, rest=rest)
        (kept,) = baked_words(found, objects)["mounts"]
        assert kept["source"] == at_launch.agents[0][2]
        assert blueprint(resolve([kept], objects)) == built


# ---------------------------------------------------------------- inside


@pytest.fixture(scope="module")
def root_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture
async def engine(root_dir: Path, objects: ObjectStore) -> AsyncIterator[Engine]:
    conf = EngineConf(kind="native", root_dir=str(root_dir), uid_base=uid_base(), max_slots=16)
    made = NativeEngine(conf, objects=objects)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def blueprint(found: Resolved) -> Blueprint:
    return Blueprint(
        steps=found.baked,
        launch=found.launch,
        agents=found.agents,
        secrets=found.secrets,
        build_network="host",
    )


async def launched(engine: Engine, objects: ObjectStore, found: Resolved) -> Sandbox:
    box = await engine.create(await make_spec(engine, blueprint(found), objects))
    await launch(box, objects)
    return box


async def said(box: Sandbox, *words: str) -> str:
    done = await box.exec(list(words))
    assert done.ok, done
    return done.stdout.decode().strip()


@pytest.mark.parametrize("where", ["npm", "pypi", "git", "tarball", "sdist", "plain"])
@pytest.mark.parametrize("at", ["build", "launch"])
class TestInside:
    pytestmark = native

    async def test_it_reports_the_version_that_is_recorded(
        self, engine: Engine, objects: ObjectStore, sources: dict[str, str], where: str, at: str
    ) -> None:
        mount = agent(sources[where], at=at, plain=where == "plain")
        found = resolve([mount], objects)
        box = await launched(engine, objects, found)
        assert "1.2.3" in await said(box, NAME, "--version")
        assert [version for _, version, _ in found.agents] == ["1.2.3"]
        linked = await said(box, "sh", "-c", "cd /usr/local/bin && find . -type l -lname '/opt/*'")
        assert linked == f"./{NAME}"
        assert (
            await said(box, "sh", "-c", f"ls -A /tmp; ls -d /opt/agents/{NAME}/src || true") == ""
        )


@pytest.mark.native
async def test_what_is_mounted_at_launch_is_made_once_and_is_as_if_baked(
    engine: Engine, objects: ObjectStore, sources: dict[str, str]
) -> None:
    look = "cd /opt/agents && find . -type f ! -name '*.pyc' -exec sha256sum {} + | sort"
    at_launch = resolve([agent(sources["sdist"])], objects)
    first = await launched(engine, objects, at_launch)
    kept = {info.id for info in objects.infos()}
    second = await launched(engine, objects, at_launch)
    assert {info.id for info in objects.infos()} == kept
    baked = await launched(engine, objects, resolve([agent(sources["sdist"], at="build")], objects))
    trees = {await said(box, "sh", "-c", look) for box in (first, second, baked)}
    assert len(trees) == 1


@pytest.mark.native
async def test_another_version_inside_than_the_one_recorded_is_refused(
    engine: Engine, objects: ObjectStore, sources: dict[str, str]
) -> None:
    wrong = agent(sources["plain"], version="1.2.4", at="build")
    with pytest.raises(BuildError, match=r"must say version 1\.2\.4"):
        await launched(engine, objects, resolve([wrong], objects))
    unchecked = resolve([wrong | {"version_command": None}], objects)
    assert "1.2.3" in await said(await launched(engine, objects, unchecked), NAME)
