"""One sandbox as a call, in the words of a blueprint."""

from pathlib import Path

import pytest

import rollout
from rollout.errors import ConfigError, SandboxError
from rollout.recipes import blueprint_of
from rollout.types import Resources


async def test_the_words_of_a_blueprint_make_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("copied, ")
    own = tmp_path / "mine.yaml"
    own.write_text("steps:\n- copy: {from: note, to: /app/told}\n- run: printf 'built, ' >> told\n")
    again = ["printf started >> /app/told"]
    async with rollout.sandbox(
        str(own), engine="memory", workdir="/app", launch_commands=again, ready="test -e /app/told"
    ) as box:
        assert await box.read_file("/app/told") == b"copied, built, started"
        (copy,) = await box.fork(1)
        assert await copy.read_file("/app/told") == b"copied, built, started"


def test_limits_by_size_and_by_number() -> None:
    assert blueprint_of("host", size="small", memory_mb=9).resources == Resources(
        cpu=1, memory_mb=9, disk_mb=4096, pids=1024
    )


def test_wrong_words_are_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="launch_command: unknown key; did you mean 'launch_c"):
        blueprint_of("host", launch_command=["x"])
    with pytest.raises(ConfigError, match=r"'hots' is no option; did you mean \"host\""):
        blueprint_of("hots")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        blueprint_of(str(tmp_path / "mine.yaml"))


async def test_the_network_of_a_made_blueprint_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"sandbox: allowed_hosts: saw '\*': no name of a host"):
        async with rollout.sandbox(rollout.Blueprint(), network="public", allowed_hosts=["*"]):
            pass


async def test_a_limit_of_a_made_blueprint_is_held_or_refused_too() -> None:
    wanted = rollout.Blueprint(resources=Resources(memory_mb=64))
    with pytest.raises(SandboxError, match="cannot hold a limit of memory"):
        async with rollout.sandbox(wanted, engine="memory"):
            pass
