"""Which engine `auto` comes to, on the machine as it is."""

from pathlib import Path

import pytest

from rollout.config import EngineConf
from rollout.errors import ConfigError
from rollout.executor.choice import Wanted, choose
from rollout.types import Blueprint, Dockerfile
from tests.conftest import DEBIAN

ON_HOST = ("task a", Blueprint())
ON_DOCKERFILE = (
    "task b",
    Blueprint(dockerfile=Dockerfile(text=f"FROM {DEBIAN}\nHEALTHCHECK NONE")),
)


@pytest.fixture
def conf(tmp_path: Path) -> EngineConf:
    return EngineConf(root_dir=str(tmp_path))


@pytest.fixture
def no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")


@pytest.mark.native
def test_native_where_it_can(conf: EngineConf, no_daemon: None) -> None:
    chosen, why = choose(conf, Wanted(blueprints=[ON_HOST], limits=["pids"]))
    assert (chosen.kind, chosen.root_dir) == ("native", conf.root_dir)
    assert why.startswith("engine native")


@pytest.mark.docker
def test_docker_for_what_native_cannot_and_it_says_why(conf: EngineConf) -> None:
    chosen, why = choose(conf, Wanted(blueprints=[ON_DOCKERFILE]))
    assert chosen.kind == "docker"
    assert "task b wants a whole Dockerfile" in why


def test_what_none_can_make_is_one_error_with_both_reasons(
    conf: EngineConf, no_daemon: None
) -> None:
    with pytest.raises(ConfigError) as told:
        choose(conf, Wanted(blueprints=[ON_DOCKERFILE]))
    assert "native: task b wants a whole Dockerfile" in str(told.value)
    assert "docker: no Docker daemon answers" in str(told.value)


def test_another_machines_daemon_is_not_looked_for(conf: EngineConf, no_daemon: None) -> None:
    chosen, _ = choose(conf, Wanted(blueprints=[ON_DOCKERFILE], here=False))
    assert chosen.kind == "docker"


@pytest.mark.parametrize("kind", ["native", "docker", "memory"])
def test_a_kind_that_is_said_stays(conf: EngineConf, no_daemon: None, kind: str) -> None:
    conf.kind = kind
    assert choose(conf, Wanted(blueprints=[ON_DOCKERFILE])) == (conf, "")
