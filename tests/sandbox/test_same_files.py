"""One Dockerfile, two engines, the same files: built by a daemon, and as steps without one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rollout.sandbox.base_settings import base_setting
from rollout.sandbox.daemon_images import save_image
from rollout.tasks.dockerfile import USUAL_PATH, read_dockerfile
from rollout.tasks.problems import Problems
from rollout.tasks.trees import Budget, read_tree
from rollout.types import Blueprint, Dockerfile
from tests.conftest import DEBIAN
from tests.sandbox.conftest import running
from tests.sandbox.harness import Bench, shell_in

pytestmark = [pytest.mark.native, pytest.mark.docker]

DOCKERFILE = f"""\
FROM {DEBIAN} AS only
ARG WHO=joe
ENV COLOR=green PATH=$PATH:/opt/bin
RUN useradd --create-home --uid 1234 $WHO && rm -r /usr/share/doc && touch -d @0 /home/$WHO/old
RUN mkdir -p /d/e && echo 1 > /d/e/f && ln /d/e/f /d/same && ln -s e /d/link && rm /etc/issue
RUN rm -r /d/e && mkdir /d/e && echo $COLOR > /d/e/g && chmod 4750 /d/e/g && chown $WHO /d/e
COPY --chown=1234:5 files /srv/files/
WORKDIR /job
RUN id -un > who && echo $COLOR $PATH $HOME >> who
USER $WHO
"""
LOOK = r"""
cd /
find . -xdev ! -type d ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' \
  ! -path './etc/ld.so.cache' ! -path './var/cache/ldconfig/*' ! -name '.dockerenv' \
  ! -path './etc/hosts' ! -path './etc/hostname' ! -path './etc/resolv.conf' ! -path './etc/mtab' \
  -printf '%M %U:%G %s %n %p %l\n' | sort
find . -xdev -type d ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path . \
  -printf '%M %U:%G %p\n' | sort
cat /job/who /d/e/g /d/same /srv/files/a
"""


@pytest.fixture
async def benches(tmp_path: Path) -> AsyncIterator[dict[str, Bench]]:
    async with (
        running("docker", tmp_path / "docker") as docker,
        running("native", tmp_path / "native") as native,
        AsyncExitStack() as ending,
    ):
        yield {"docker": Bench(docker, ending), "native": Bench(native, ending)}


async def seen(bench: Bench, blueprint: Blueprint) -> tuple[list[str], str]:
    """All its files, and how a process starts."""
    box = await bench.sandbox(blueprint)
    files = await shell_in(box)(LOOK, user="root", output_limit_bytes=16 << 20)
    start = await shell_in(box)("id -un; pwd; echo $COLOR $PATH")
    assert files.ok, files.stderr
    assert start.ok, start.stderr
    return files.stdout.decode().splitlines(), start.stdout.decode()


async def test_a_dockerfile_gives_the_same_files_everywhere(
    benches: dict[str, Bench], tmp_path: Path
) -> None:
    context = tmp_path / "context"
    (context / "files").mkdir(parents=True)
    (context / "files/a").write_text("of the context\n")
    (context / "Dockerfile").write_text(DOCKERFILE)
    whole = Dockerfile(text=DOCKERFILE, context=read_tree(context, Budget(1 << 20)), needs="test")
    problems = Problems()
    recipe = read_dockerfile(
        context / "Dockerfile",
        context=context,
        field="Dockerfile",
        images={DEBIAN: f"image:{DEBIAN}"},
        budget=Budget(1 << 20),
        problems=problems,
        setting_of=base_setting,
    )
    assert recipe is not None, problems.lines
    built = await benches["docker"].engine.build(Blueprint(dockerfile=whole))
    saved = tmp_path / "saved.tar"
    save_image(built.layers[-1], saved)
    told = {
        "docker": await seen(benches["docker"], Blueprint(dockerfile=whole)),
        "saved": await seen(benches["native"], Blueprint(base=f"oci:{saved}")),
        "daemon": await seen(benches["native"], Blueprint(base=f"image:{built.layers[-1]}")),
        "steps": await seen(benches["native"], Blueprint(base=recipe.base, steps=recipe.steps)),
    }
    path = dict(base_setting(f"image:{DEBIAN}").env).get("PATH", USUAL_PATH)
    for how, (files, start) in told.items():
        assert set(files) ^ set(told["docker"][0]) == set(), how
        assert start == f"joe\n/job\ngreen {path}:/opt/bin\n", how
    assert len(told["docker"][0]) > 1_000
