"""A Debian out of what this machine's apt can get: where from, made once, and known by content."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from rollout.errors import BuildError, ConfigError
from rollout.sandbox import debian
from rollout.sandbox.apt_sources import Source, source_of, sources
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.bases import parse_base
from rollout.sandbox.debian import packages_digest
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint
from tests.sandbox.test_native import conf

LINES = """\
# deb http://old.test/debian bookworm main
deb [arch=amd64 signed-by=/k/a.gpg] http://one.test/debian bookworm main contrib # ours
deb-src http://one.test/debian bookworm main
deb cdrom:[Debian]/ bookworm main
"""
STANZAS = """\
Types: deb deb-src
URIs: https://name:word@two.test/debian
Suites: bookworm-updates trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(LINES)
    (tmp_path / "sources.list.d/two.sources").write_text(STANZAS)
    (tmp_path / "sources.list.d/gone.sources.disabled").write_text("Types: deb\nURIs: http://x\n")
    (tmp_path / "os-release").write_text('NAME="Some Linux"\nVERSION_CODENAME=bookworm\n')
    return tmp_path


def test_both_formats_of_sources_are_read(apt: Path) -> None:
    one = Source(
        uri="http://one.test/debian",
        suite="bookworm",
        components=("main", "contrib"),
        keyring="/k/a.gpg",
    )
    two = Source(
        uri="https://name:word@two.test/debian", suite="bookworm-updates", components=("main",)
    )
    assert list(sources(apt))[:2] == [one, two]
    assert [source.suite for source in sources(apt)][2:] == ["trixie"]
    assert two.shown == "https://two.test/debian"


def test_a_suite_is_looked_for_and_else_asked_of_the_machines_own_mirror(apt: Path) -> None:
    def found(suite: str) -> tuple[str, str]:
        source = source_of(suite, apt=apt, os_release=apt / "os-release")
        return source.shown, source.suite

    assert found("") == ("http://one.test/debian", "bookworm")
    assert found("trixie") == ("https://two.test/debian", "trixie")
    assert found("sid") == ("http://one.test/debian", "sid")
    (apt / "sources.list").unlink()
    with pytest.raises(BuildError, match=r"has no line for the suite 'sid'.*'bookworm'"):
        found("sid")


def test_the_fingerprint_is_of_packages_and_not_of_their_order(tmp_path: Path) -> None:
    def digest(*stanzas: str) -> str:
        (tmp_path / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
        (tmp_path / "var/lib/dpkg/status").write_text("\n\n".join(stanzas))
        return packages_digest(tmp_path)

    a, b = "Package: a\nVersion: 1\nConffiles:\n /x 1", "Package: b\nVersion: 2"
    assert digest(a, b) == digest(b, a) != digest(a, "Package: b\nVersion: 3")


def test_words_for_it() -> None:
    assert str(parse_base("debian")) == "debian"
    pinned = f"debian:sid@sha256:{'0' * 64}"
    assert str(parse_base(pinned)) == pinned
    with pytest.raises(ConfigError, match="cannot name a suite"):
        parse_base("debian:")


async def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "PATH", str(tmp_path))
    with pytest.raises(
        BuildError, match="debootstrap is not installed: `apt-get install debootstrap"
    ):
        await debian.bootstrap(tmp_path / "root", Source(uri="x", suite="y", components=()))


@pytest.mark.native
@pytest.mark.skipif(not shutil.which("debootstrap"), reason="debootstrap is not installed")
async def test_it_is_made_once_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "TOOLS", ("make",))
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        images = await asyncio.gather(*(engine.build(Blueprint(base="debian")) for _ in range(2)))
        assert images[0] == images[1]
        (name,) = (path for path in (tmp_path / "base").glob("debian-1-*") if path.is_dir())
        digest = packages_digest(name / "root")
        assert name.name == f"debian-1-{digest[:32]}"
        made = name.stat().st_ino
        pinned = await engine.build(Blueprint(base=f"debian@sha256:{digest}"))
        assert (pinned.layers, name.stat().st_ino) == (images[0].layers, made)
        box = await engine.create(SandboxSpec(image=pinned))
        told = await box.exec(
            ["sh", "-c", "make --version; dpkg -l make; cat /etc/apt/sources.list"]
        )
        assert (told.exit_code, told.stderr) == (0, b"")
        assert re.search(rb"ii +make .*\ndeb \w+://[^@\n]+ \w+ main", told.stdout)
        with pytest.raises(BuildError, match="has other versions of the packages now"):
            await engine.build(Blueprint(base=f"debian@sha256:{'0' * 64}"))
    finally:
        await engine.close()
