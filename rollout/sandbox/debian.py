"""A root of Debian or Ubuntu, made by debootstrap out of what this machine's apt can get.

It is made once for each suite and kept under the fingerprint of its packages: the same packages in
the same versions are one base, wherever and whenever they were put together.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from rollout.aio import shielded
from rollout.errors import BuildError
from rollout.sandbox.apt_sources import Source, proxies, source_of
from rollout.sandbox.bases import DEBIAN, Base
from rollout.sandbox.copies import run
from rollout.sandbox.images import ImageStore, Layer, building, fresh_name
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.supply import supply
from rollout.types import digest_of

VERSION = 1
"""Of how the root is made; another number makes all of them anew."""
TOOLS = (
    *("ca-certificates", "curl", "wget", "git", "openssh-client", "rsync"),
    *("python3", "python3-venv", "python3-pip", "nodejs", "npm"),
    *("gcc", "g++", "make", "patch", "pkg-config"),
    *("bzip2", "file", "jq", "less", "procps", "ripgrep", "sudo", "tmux", "unzip", "vim-tiny"),
    *("xz-utils", "zip"),
)
"""What is there besides the packages that every system must have."""
TIMEOUT_S = 3_600.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEFTOVERS = (
    *("debootstrap", "var/cache/apt", "var/lib/apt/lists", "var/log/bootstrap.log"),
    *("var/log/dpkg.log", "var/log/alternatives.log", "var/log/apt", "etc/machine-id"),
    *("usr/sbin/policy-rc.d", "tmp/certificates"),
)
"""Of the making: what no sandbox needs, or should have in common with others."""
SCRIPT = """\
root=$1 uri=$2 suite=$3 trust=; shift 3
debootstrap --variant=minbase --include=ca-certificates $OPTIONS "$suite" "$root" "$uri"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\\nexit 101\\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
if test -f /etc/ssl/certs/ca-certificates.crt; then
    cp /etc/ssl/certs/ca-certificates.crt "$root/tmp/certificates"
    trust="-o Acquire::https::CaInfo=/tmp/certificates"
fi
mount -t proc proc "$root/proc"
chroot "$root" apt-get -q $trust update
chroot "$root" apt-get -q -y $trust --no-install-recommends install "$@"
"""
"""The tools by apt-get, which finds its way through alternatives that debootstrap does not."""

log = logging.getLogger(__name__)


class DebianLayers:
    """The Debian bases below one engine's root folder."""

    def __init__(self, store: ImageStore, owner_layers: Path) -> None:
        """`owner_layers`: a folder that is swept with its owner."""
        self._store = store
        self._owner_layers = owner_layers

    async def layer(self, base: Base, blueprint: str) -> str:
        """The name of the base's layer, made where it is missing. BuildError says why not."""
        if base.digest and self._store.has(_name(base.digest)):
            return _name(base.digest)
        source = await asyncio.to_thread(source_of, base.path)
        mark = self._store.folder(_mark(source.suite))
        async with building(mark.with_name(f"{mark.name}.lock"), blueprint):
            digest = await asyncio.to_thread(_read, mark)
            if not digest or not self._store.has(_name(digest)):
                digest = await self._make(source)
                await asyncio.to_thread(_write, mark, digest)
        if base.digest and base.digest != digest:
            raise BuildError(
                f"base {base}: {source.shown} has other versions of the packages now, which make "
                f"sha256:{digest}"
            )
        return _name(digest)

    async def _make(self, source: Source) -> str:
        made = self._owner_layers / fresh_name("b")
        made.mkdir(mode=0o755)
        try:
            root = made / "root"
            log.warning("making %s of %s, once; this takes minutes", source.suite, source.shown)
            began = time.monotonic()
            await bootstrap(root, source)
            digest = await asyncio.to_thread(_finish, root, source)
            self._store.seal(made, Layer())
            await asyncio.to_thread(self._store.publish, made, _name(digest))
            log.warning(
                "made %s in %.0f s: sha256:%s", source.suite, time.monotonic() - began, digest
            )
            return digest
        finally:
            await shielded(asyncio.to_thread(remove_tree, made))


async def bootstrap(root: Path, source: Source) -> None:
    """Fill the new folder `root`. BuildError has the end of what was said.

    It runs as root of this machine and in namespaces of its own: its mounts and processes end with
    it, however that ends.
    """
    for program in ("debootstrap", "unshare"):
        if shutil.which(program, path=PATH) is None:
            raise BuildError(
                f"{program} is not installed: `apt-get install debootstrap util-linux`"
            )
    env = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    own = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    options = [f"--components={','.join(source.components)}"]
    options += [f"--keyring={source.keyring}"] if source.keyring else []
    env["OPTIONS"] = " ".join(options)
    pairs = [f"{name}={value}" for name, value in {**env, **proxies(), **own}.items()]
    command = [
        *("env", "-i", *pairs, "unshare", "--mount", "--pid", "--fork", "--kill-child"),
        *("sh", "-euc", SCRIPT, "sh", str(root), source.uri, source.suite, *TOOLS),
    ]
    try:
        status, said = await run(command, timeout_s=TIMEOUT_S)
    except TimeoutError:
        raise BuildError(f"{source.suite}: not made within {TIMEOUT_S:g} s") from None
    if status:
        raise BuildError(
            f"making {source.suite} of {source.shown} ended with {status}: "
            + said.replace(source.uri, source.shown)
        )


def _finish(root: Path, source: Source) -> str:
    """The fingerprint of the root, once it is as sandboxes need it. Blocks."""
    for name in LEFTOVERS:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    for name in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (root / name).mkdir(parents=True)
    components = " ".join(source.components)
    (root / "etc/apt/sources.list").write_text(f"deb {source.shown} {source.suite} {components}\n")
    supply(root)
    return packages_digest(root)


def packages_digest(root: Path) -> str:
    """64 hex digits over all installed packages, their versions and architectures."""
    told = []
    for stanza in (root / "var/lib/dpkg/status").read_text(errors="replace").split("\n\n"):
        lines = (line.partition(": ") for line in stanza.splitlines())
        keys = {name: value for name, _, value in lines if name in _TOLD}
        told.append(" ".join(keys.get(name, "") for name in _TOLD))
    return hashlib.sha256("\n".join([f"{VERSION}", *sorted(told)]).encode()).hexdigest()


_TOLD = ("Package", "Version", "Architecture", "Status")


def _name(digest: str) -> str:
    return f"base/{DEBIAN}-{VERSION}-{digest[:32]}"


def _mark(suite: str) -> str:
    """The file that tells the fingerprint of the suite as it was made here."""
    return f"base/{DEBIAN}-{suite}-{digest_of([VERSION, suite, TOOLS])[:16]}"


def made_digest(root_dir: Path, suite: str) -> str:
    """The fingerprint of what was made below an engine's root folder; empty if nothing was."""
    try:
        return _read(root_dir / _mark(source_of(suite).suite))
    except BuildError:
        return ""


def _read(mark: Path) -> str:
    try:
        return mark.read_text().strip()
    except FileNotFoundError:
        return ""


def _write(mark: Path, digest: str) -> None:
    """Whole or not at all."""
    made = mark.with_name(fresh_name(f"{mark.name}."))
    made.write_text(digest)
    made.rename(mark)
