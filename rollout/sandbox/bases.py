"""What a sandbox stands on, named by one word of a blueprint.

    host                    the host's live /usr below a small generated root
    host-frozen             the same as it was when first asked for: later upgrades do not show
    rootfs:/path            a folder or a tar archive that holds a whole root, copied
    rootfs-linked:/path     a folder, taken by hard links where the file system allows it
    oci:/path               an OCI layout (a folder or a tar of one), or what `docker save` wrote
    image:NAME[:TAG]        an image of the Docker daemon that answers here
    debian[:SUITE]          Debian or Ubuntu with the usual tools, of what this machine's apt gets

One word and no flag beside it, so that a map of image names to bases can say all of it. Behind all
but the first may stand `@sha256:…`, the fingerprint of what the base must hold; the planner adds it
to each but `host-frozen` and `debian`, so that another content is another task and never passes for
the same. Of an image that is its id, and one of its registry digests is as good.
"""

import re
from dataclasses import dataclass, replace

from rollout.errors import ConfigError

HOST = "host"
HOST_FROZEN = "host-frozen"
ROOTFS = "rootfs"
ROOTFS_LINKED = "rootfs-linked"
OCI = "oci"
IMAGE = "image"
DEBIAN = "debian"
WITH_PATH = (ROOTFS, ROOTFS_LINKED, OCI)
NAMED = (*WITH_PATH, IMAGE)
"""Kinds that say behind a colon which one is meant."""
KINDS = (HOST, HOST_FROZEN, DEBIAN, *NAMED)

_IMAGE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,254}")
_SUITE = re.compile(r"[a-z][a-z0-9.-]{0,63}")
_PINNED = re.compile(r"(.+)@sha256:([0-9a-f]{64})", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base, taken apart; `str` puts it together again."""

    kind: str
    path: str = ""
    """Absolute, of the kinds in WITH_PATH; of IMAGE the image's name, as Docker spells it; of
    DEBIAN the suite, or nothing for that of this machine."""
    digest: str = ""
    """64 hex digits: what it must hold. Empty: whatever is there."""

    def __str__(self) -> str:
        named = f"{self.kind}:{self.path}" if self.path else self.kind
        return f"{named}@sha256:{self.digest}" if self.digest else named

    def pinned(self, digest: str) -> "Base":
        return replace(self, digest=digest)


def parse_base(text: str) -> Base:
    """ConfigError says which word is wrong and which are known."""
    found = _PINNED.fullmatch(text)
    named, digest = (found[1], found[2]) if found else (text, "")
    kind, colon, path = named.partition(":")
    misfit = bool(colon) != (kind in NAMED) and kind != DEBIAN
    if kind not in KINDS or misfit:
        raise ConfigError(
            f"base {text!r} is none of {HOST}, {HOST_FROZEN}, {DEBIAN}, {DEBIAN}:SUITE, "
            f"{ROOTFS}:/path, {ROOTFS_LINKED}:/path, {OCI}:/path, {IMAGE}:NAME"
        )
    if kind == DEBIAN and colon and not _SUITE.fullmatch(path):
        raise ConfigError(f"base {text!r}: {path!r} cannot name a suite")
    if kind == IMAGE and not _IMAGE_NAME.fullmatch(path):
        raise ConfigError(f"base {text!r}: {path!r} cannot name an image")
    if kind in WITH_PATH and (not path.startswith("/") or "\0" in path):
        raise ConfigError(f"base {text!r}: the path must be absolute, such as {kind}:/srv/rootfs")
    if kind == HOST and digest:
        raise ConfigError(f"base {text!r}: the live host cannot be pinned; use {HOST_FROZEN}")
    return Base(kind=kind, path=path, digest=digest)
