"""Chains longer than an overlay takes: what a sandbox shows does not depend on being merged."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollout.sandbox import chains
from rollout.sandbox.base import Image, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint
from tests.sandbox.harness import until_empty
from tests.sandbox.test_native import conf, leftovers, out

pytestmark = pytest.mark.native


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(conf(tmp_path))
    await made.start()
    yield made
    await made.close()
    await until_empty(lambda: leftovers(tmp_path), "left behind")


CHANGES = (
    # Files and folders of the base and of layers: changed, removed, replaced, moved.
    "echo mine > /etc/hosts; rm /etc/services; chmod 4711 /etc/shells; chown 7:8 /etc/protocols",
    "rm -r /etc/skel; mkdir /etc/skel; echo new > /etc/skel/new",
    "rm -r /var/cache; mv /var/lib /var/cache; echo in > /var/cache/dpkg/zz-in",
    "mv /etc/alternatives /etc/moved; echo in > /etc/moved/zz-in",
    "mkdir -p /srv/a/b/c; echo 1 > /srv/a/b/c/1; echo 2 > /srv/a/b/2; ln /srv/a/b/2 /srv/a/same",
    "mv /srv/a/b /srv/b; mkdir /srv/a/b; echo other > /srv/a/b/2",
    "mv /srv/b/c /srv/a/b/c; echo deep > /srv/a/b/c/deep; rm /srv/a/b/c/1",
    "rm -r /srv/a; echo file > /srv/a",
    "rm /srv/a; mkdir -p /srv/a; chmod 1700 /srv/a; ln -s /etc/shadow /srv/a/link",
    "mkfifo /srv/a/fifo; truncate -s 1T /srv/a/hole; printf x | dd of=/srv/a/hole seek=99999999 "
    "conv=notrunc 2>/dev/null; touch -d @1000 /srv/a/link-less; ln /srv/a/hole /srv/a/hole2",
    "rm /etc/hosts; mkdir /etc/hosts; touch /etc/hosts/in",
    "rm -r /etc/hosts; echo back > /etc/hosts",
    # The same on the overlay over /usr.
    "echo mine > /usr/local/bin/mine; chmod 755 /usr/local/bin/mine; rm /usr/bin/tac",
    "rm -r /usr/share/doc; mv /usr/share/dict /usr/share/words 2>/dev/null; mkdir /usr/share/doc",
    "mv /usr/lib/python3 /usr/lib/python3-moved; touch /usr/lib/python3-moved/here",
    "cp -a /usr/bin/env /usr/bin/env2; chown 1000:1000 /usr/bin/env2; echo x >> /usr/bin/env2",
    "rm -r /tmp; mkdir -m 1777 /tmp; echo gone > /dev/shm/gone; echo t > /tmp/t",
)
SHOW = """
cd /
places="etc srv tmp var usr/local usr/bin usr/share/doc usr/share/words usr/lib/python3*"
find $places ! -type d -printf '%p %y %m %U:%G %s %T@ %l\\n' | sort
find $places -type d -printf '%p %y %m %U:%G\\n' | sort
[ srv/a/hole -ef srv/a/hole2 ] && echo one file of two names
find etc srv tmp var usr/local -type f -size -1M -exec sha256sum {} + | sort
ls /usr /usr/lib /usr/share /dev/shm
"""


async def grown(engine: NativeEngine, image: Image, generations: int) -> Image:
    """Each generation makes one of the changes, or a small one of its own."""
    for number in range(generations):
        box = await engine.create(SandboxSpec(image=image))
        own = f"echo {number} > /srv/{number % 7}; mkdir -p /usr/local/g{number % 5}/x{number}"
        await out(box, CHANGES[number] if number < len(CHANGES) else own)
        image = await box.end_as_image()
    return image


async def shown(engine: NativeEngine, image: Image) -> list[str]:
    box = await engine.create(SandboxSpec(image=image))
    lines = (await out(box, SHOW, output_limit_bytes=64 << 20)).splitlines()
    await box.close()
    return lines


async def test_merged_chain_shows_the_same(
    engine: NativeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await grown(engine, await engine.build(Blueprint()), 40)
    assert len(image.layers) == 41
    expected = await shown(engine, image)
    assert any(line.startswith("srv/a/hole f ") for line in expected)
    assert any(line.startswith("usr/lib/python3-moved/here f ") for line in expected)
    assert "one file of two names" in expected
    monkeypatch.setattr(chains, "FLATTEN_PAST", 33)
    assert await shown(engine, image) == expected
    (merged,) = tmp_path.glob("owners/*/layers/f*")
    assert (merged / "root/srv/a/hole").stat().st_blocks < 100
    again = await shown(engine, image)
    assert (again, list(tmp_path.glob("owners/*/layers/f*"))) == (expected, [merged])


async def test_merged_layers_are_merged_again(
    engine: NativeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "FLATTEN_PAST", 1000)
    long = await grown(engine, await engine.build(Blueprint()), 30)
    expected = await shown(engine, long)
    monkeypatch.setattr(chains, "FLATTEN_PAST", 4)
    assert await shown(engine, long) == expected
    assert len(list(tmp_path.glob("owners/*/layers/f*"))) > 5


async def test_lineage_of_any_length_goes_on(engine: NativeEngine) -> None:
    image = await grown(engine, await engine.build(Blueprint()), 140)
    assert len(image.layers) <= chains.FLATTEN_PAST + 1
    box = await engine.create(SandboxSpec(image=image))
    numbers = sorted(int(word) for word in (await out(box, "cat /srv/[0-9]")).split())
    assert numbers == list(range(133, 140))
    assert await out(box, "cat /etc/hosts; ls /usr/local/g0 | wc -l") == "back\n24\n"


async def test_what_cannot_be_merged_is_used_as_it_is(
    engine: NativeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = await engine.create(SandboxSpec(image=await engine.build(Blueprint())))
    deeper = "chdir '/srv'; for (1..3000) { mkdir 'd'; chdir 'd' }"
    assert (await box.exec(["perl", "-e", deeper])).ok
    image = await grown(engine, await box.end_as_image(), 3)
    monkeypatch.setattr(chains, "FLATTEN_PAST", 4)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        deep = await engine.create(SandboxSpec(image=image))
        assert await out(deep, "ls -d /srv/d/d") == "/srv/d/d\n"
    assert caplog.text.count("5 layers stay unmerged") == 1
    assert list(tmp_path.glob("owners/*/layers/f*")) == []
