"""Images as others keep them: an OCI layout, and what `docker save` writes.

Both are folders here; an archive of one is unpacked first. Everything in them is anybody's: what is
read is small, checked against its digest wherever one is told, and looked for in the folder alone.
"""

import hashlib
import json
import os
import platform
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rollout.errors import ConfigError
from rollout.sandbox.steps import Setting

INDEX, MANIFESTS = "index.json", "manifest.json"
JSON_LIMIT_BYTES = 4 << 20
LIMIT_LAYERS = 120
"""Overlays have an end, and sandboxes go on from here."""
_DEPTH = 4
"""Of indexes within indexes."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer's archive."""

    name: str
    """Its path in the folder."""
    digest: str
    """SHA-256 of the file, or nothing where only that of its content is known."""
    diff_id: str
    """SHA-256 of the file once decompressed."""


@dataclass(frozen=True, slots=True)
class OciImage:
    """What an image is made of, and how its processes start."""

    ids: frozenset[str]
    """Digests it goes by: of its config, and of the manifests that name it."""
    layers: tuple[Blob, ...]
    """Lowest first."""
    setting: Setting
    config: bytes
    """Its config as it is written."""


def read_image(folder: Path) -> OciImage:
    """The one image for this machine in `folder`. ConfigError says what is wrong. Blocks."""
    try:
        if (folder / INDEX).exists():
            return _of_layout(folder)
        if (folder / MANIFESTS).exists():
            return _of_docker(folder)
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"it cannot be read as an image: {exc}") from exc
    raise ConfigError(f"it has no {INDEX} and no {MANIFESTS}: it is no OCI layout or saved image")


# ---------------------------------------------------------------- an OCI layout


def _of_layout(folder: Path) -> OciImage:
    found = dict(_manifests(folder, _json(_read(folder, INDEX)), (), _DEPTH))
    if len(found) != 1:
        names = ", ".join(f"sha256:{digest[:12]}" for digest in sorted(found)) or "none"
        told = f"it holds {len(found)} images for {_own_platform()} ({names})"
        raise ConfigError(f"{told}; one is needed")
    ((digest, above),) = found.items()
    manifest = _json(_blob(folder, digest))
    config = _digest(_map(manifest, "config"))
    layers = [_digest(layer) for layer in _maps(manifest, "layers")]
    blobs = [(_blob_name(layer), layer) for layer in layers]
    return _image(_blob(folder, config), blobs, {config, digest, *above})


def _manifests(
    folder: Path, index: Mapping[str, Any], above: tuple[str, ...], depth: int
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Digests of the manifests for this machine, with those of the indexes above each."""
    for entry in _maps(index, "manifests"):
        digest = _digest(entry)
        place = entry.get("platform")
        if isinstance(place, dict) and _platform(place) != _own_platform():
            continue
        inner = _json(_blob(folder, digest))
        if "manifests" not in inner:
            yield digest, above
        elif depth:
            yield from _manifests(folder, inner, (*above, digest), depth - 1)


def _platform(place: Mapping[str, Any]) -> str:
    return f"{place.get('os')}/{place.get('architecture')}"


def _own_platform() -> str:
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


# ---------------------------------------------------------------- docker save


def _of_docker(folder: Path) -> OciImage:
    entries = json.loads(_read(folder, MANIFESTS))
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        count = len(entries) if isinstance(entries, list) else "no list of"
        raise ConfigError(f"it holds {count} images; one is needed")
    name = entries[0].get("Config")
    layers = _texts(entries[0].get("Layers"), "Layers")
    if not isinstance(name, str):
        raise ConfigError(f"{MANIFESTS} names no config")
    config = _read(folder, name)
    digest = hashlib.sha256(config).hexdigest()
    if digest not in name:
        raise ConfigError(f"{name} is not what its name says; it was damaged or changed")
    return _image(config, [(layer, "") for layer in layers], {digest})


# ---------------------------------------------------------------- both


def _image(config: bytes, blobs: Sequence[tuple[str, str]], ids: set[str]) -> OciImage:
    said = _json(config)
    if _platform(said) != _own_platform():
        raise ConfigError(f"it is for {_platform(said)}; this machine is {_own_platform()}")
    diff_ids = _texts(_map(said, "rootfs").get("diff_ids"), "diff_ids")
    if len(diff_ids) != len(blobs) or not blobs:
        raise ConfigError(f"its config and its manifest do not agree on its {len(blobs)} layers")
    if len(blobs) > LIMIT_LAYERS:
        raise ConfigError(f"it has {len(blobs)} layers; {LIMIT_LAYERS} are possible")
    layers = tuple(
        Blob(name, digest, _hex(diff_id))
        for (name, digest), diff_id in zip(blobs, diff_ids, strict=True)
    )
    return OciImage(frozenset(ids), layers, setting_of(said.get("config") or {}), config)


def setting_of(config: Mapping[str, Any]) -> Setting:
    """How processes start, as the part of an image's config of that name says."""
    lines = _texts(config.get("Env") or [], "Env")
    env = {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}
    workdir, user = config.get("WorkingDir") or "/", config.get("User") or "root"
    if not isinstance(workdir, str) or not isinstance(user, str) or not workdir.startswith("/"):
        raise ConfigError(f"its WorkingDir {workdir!r} or User {user!r} cannot be used")
    return Setting(env=tuple(env.items()), workdir=workdir, user=user)


def _blob(folder: Path, digest: str) -> bytes:
    content = _read(folder, _blob_name(digest))
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError(f"the blob sha256:{digest} is not what its name says")
    return content


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _read(folder: Path, name: str) -> bytes:
    with opened(folder, name) as file:
        content = file.read(JSON_LIMIT_BYTES + 1)
    if len(content) > JSON_LIMIT_BYTES:
        raise ConfigError(f"{name} is larger than {JSON_LIMIT_BYTES} bytes")
    return content


@contextmanager
def opened(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """A regular file below `folder`; one link, as `docker save` has them, is followed within it."""
    target = _resolved(folder, name)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in target[:-1]:
            below = os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        handle = os.open(target[-1], _FLAGS, dir_fd=at)
    finally:
        os.close(at)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ConfigError(f"{name[:200]!r} is no file")
        yield file


def _resolved(folder: Path, name: str) -> list[str]:
    parts = _inside([], name)
    path = folder.joinpath(*parts)
    if path.is_symlink():
        parts = _inside(parts[:-1], str(path.readlink()))
    return parts


def _inside(above: list[str], name: str) -> list[str]:
    parts = [] if name.startswith("/") else list(above)
    for part in name.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == ".." or "\0" in part:
            raise ConfigError(f"{name[:200]!r} leads out of it")
        elif part not in ("", "."):
            parts.append(part)
    if not parts or name.startswith("/"):
        raise ConfigError(f"{name[:200]!r} names no file in it")
    return parts


def _json(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ConfigError("a part of it is no JSON object")
    return found


def _map(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"a part of it has no {key}")
    return value


def _maps(found: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = found.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ConfigError(f"a part of it has no list of {key}")
    return value


def _digest(descriptor: Mapping[str, Any]) -> str:
    return _hex(descriptor.get("digest"))


def _hex(digest: object) -> str:
    text = digest if isinstance(digest, str) else ""
    algorithm, _, value = text.partition(":")
    if algorithm != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ConfigError(f"{text[:80]!r} is no digest of the form sha256:…")
    return value


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f"its {key} is no list of texts")
    return value
