"""The Docker daemon of this machine: one typed call for each thing that is asked of it.

All of it blocks, for its own timeout at most. No output of a container is ever read through it: the
daemon makes, holds still, commits and removes, and everything inside goes through the init.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from rollout.errors import BuildError, SandboxError

USUAL_URL = "unix:///var/run/docker.sock"
PING_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 60.0
"""Of one call, where nothing else is said."""
LONG_TIMEOUT_S = 1800.0
"""Of pulling, loading, saving and building: between two pieces of the answer."""
CHUNK_BYTES = 2 << 20
NONE_ANSWERS = (
    "start one with `make docker`, set DOCKER_HOST, or use another engine, such as engine=native"
)

T = TypeVar("T")


class DaemonError(SandboxError):
    """The daemon refused a call, broke off or did not answer in time."""

    may_pass = False
    """Whether the same call may succeed a moment later."""
    missing = False
    """Whether what was asked for is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the daemon says of itself."""

    version: str
    storage_driver: str
    backing: str
    """The file system its layers lie on, as it calls it."""
    runtimes: tuple[str, ...]
    default_runtime: str
    cgroup_driver: str
    limits: frozenset[str]
    """Which of `cpu memory pids disk` its containers can be held to."""
    rootless: bool
    user_namespaces: bool
    """Whether root in a container is somebody else outside."""


class Daemon:
    """One connection to it. Safe to use from several threads."""

    def __init__(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """SandboxError when none answers."""
        url = os.environ.get("DOCKER_HOST") or USUAL_URL
        try:
            _try_socket(url)
            self._api: Any = docker.APIClient(base_url=url, version="auto", timeout=timeout_s)
        except (DockerException, OSError) as exc:
            raise SandboxError(f"no Docker daemon answers: {_words(exc)}; {NONE_ANSWERS}") from exc
        version = self._api.api_version
        self._long: Any = docker.APIClient(base_url=url, version=version, timeout=LONG_TIMEOUT_S)

    def close(self) -> None:
        self._api.close()
        self._long.close()

    def facts(self) -> Facts:
        about = _call("ask the daemon about itself", self._api.info)
        backing = dict(about.get("DriverStatus") or ()).get("Backing Filesystem", "")
        flags = {"cpu": "CpuCfsQuota", "memory": "MemoryLimit", "pids": "PidsLimit"}
        limits = {name for name, flag in flags.items() if about.get(flag)}
        if _limits_disk(about["Driver"], backing):
            limits.add("disk")
        security = " ".join(about.get("SecurityOptions") or ())
        return Facts(
            version=str(about.get("ServerVersion", "")),
            storage_driver=about["Driver"],
            backing=backing,
            runtimes=tuple(sorted(about.get("Runtimes") or ())),
            default_runtime=str(about.get("DefaultRuntime", "")),
            cgroup_driver=str(about.get("CgroupDriver", "")),
            limits=frozenset(limits),
            rootless="name=rootless" in security,
            user_namespaces="name=userns" in security or "name=rootless" in security,
        )

    # ---------------------------------------------------------------- images

    def image_id(self, name: str, *, pull: bool = True) -> str:
        """`sha256:…` of an image by name, id or digest, pulled if missing; BuildError if not."""
        return str(self.image(name, pull=pull)["Id"])

    def image(self, name: str, *, pull: bool = True) -> Mapping[str, Any]:
        """All the daemon knows of an image; see `image_id`."""
        try:
            found: Mapping[str, Any] = self._api.inspect_image(name)
        except ImageNotFound:
            if not pull:
                raise BuildError(f"the Docker daemon has no image {name!r}") from None
        except (DockerException, OSError) as exc:
            raise _error(f"look up image {name!r}", exc) from exc
        else:
            return found
        self._pull(name)
        return self.image(name, pull=False)

    def _pull(self, name: str) -> None:
        try:
            for told in self._long.pull(name, stream=True, decode=True):
                if "error" in told:
                    raise DockerException(told["error"])
        except (DockerException, OSError) as exc:
            raise BuildError(
                f"the Docker daemon has no image {name!r} and cannot pull it: {_words(exc)}; name "
                "one of `docker images`, or make it with `docker build`, `docker load` or "
                "`docker import`"
            ) from exc

    def save(self, image_id: str, target: Path) -> None:
        """Write an image as `docker save` does; what was begun is removed where it fails."""
        doing = f"save image {image_id}"
        try:
            with target.open("wb") as file:
                for piece in self._long.get_image(image_id, chunk_size=CHUNK_BYTES):
                    file.write(piece)
        except BaseException as exc:
            target.unlink(missing_ok=True)
            if isinstance(exc, DockerException | OSError):
                raise _error(doing, exc) from exc
            raise

    def load(self, archive: IO[bytes]) -> str:
        """Take in what `docker save` wrote; the id or name it has then. BuildError."""
        told: list[str] = []
        try:
            for line in self._long.load_image(archive):
                if "error" in line:
                    raise DockerException(line["error"])
                told.append(str(line.get("stream", "")))
        except (DockerException, OSError) as exc:
            raise BuildError(f"the Docker daemon cannot load it: {_words(exc)}") from exc
        loaded = [
            line.partition(": ")[2].strip()
            for text in told
            for line in text.splitlines()
            if line.startswith(("Loaded image: ", "Loaded image ID: "))
        ]
        if not loaded:
            raise BuildError(f"the Docker daemon found no image in it: {''.join(told)[-500:]}")
        return loaded[-1]

    def import_root(
        self, archive: IO[bytes] | Iterator[bytes], name: str, labels: Mapping[str, str]
    ) -> str:
        """An image of one layer out of a tar of a whole root; its id."""
        changes = [f"LABEL {key}={json.dumps(value)}" for key, value in labels.items()]
        repository, _, tag = name.partition(":")
        _call(
            f"import {name}",
            lambda: self._long.import_image_from_stream(
                _pieces(archive), repository=repository, tag=tag, changes=changes
            ),
        )
        return self.image_id(name, pull=False)

    def tag(self, image: str, name: str) -> None:
        """Give an image another name."""
        repository, _, tag = name.partition(":")
        _call(f"name {image}", lambda: self._api.tag(image, repository, tag))

    def build(self, context: IO[bytes], **options: Any) -> Iterator[Mapping[str, Any]]:
        """The daemon's own build of a context; what it tells, piece by piece."""
        try:
            yield from self._long.build(
                fileobj=context, custom_context=True, decode=True, rm=True, forcerm=True, **options
            )
        except (DockerException, OSError) as exc:
            raise _error("build", exc) from exc

    def images(self, label: str) -> list[Mapping[str, Any]]:
        filters = {"label": label}
        return _call("list images", lambda: self._api.images(filters=filters, all=True))

    def remove_image(self, name: str) -> None:
        """Fine if it is gone; its parents stay."""
        with _fine_if_gone():
            _call(f"remove image {name}", lambda: self._api.remove_image(name, noprune=True))

    # ---------------------------------------------------------------- containers

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        made = _call(
            f"create {name}",
            lambda: self._api.create_container_from_config(dict(config), name=name),
        )
        return str(made["Id"])

    def start(self, container: str) -> None:
        _call(f"start {container}", lambda: self._api.start(container))

    def inspect(self, container: str) -> Mapping[str, Any]:
        return _call(f"inspect {container}", lambda: self._api.inspect_container(container))

    def limit_pids(self, container: str, pids: int) -> None:
        url = self._api._url("/containers/{0}/update", container)
        doing = f"limit {container}"
        _call(
            doing, lambda: self._api._result(self._api._post_json(url, {"PidsLimit": pids}), True)
        )

    def pause(self, container: str) -> None:
        """Fine if it is: the answer to a call that did it may have been lost."""
        with _fine_if("is already paused"):
            _call(f"pause {container}", lambda: self._api.pause(container))

    def unpause(self, container: str) -> None:
        """Fine if it runs."""
        with _fine_if("is not paused"):
            _call(f"unpause {container}", lambda: self._api.unpause(container))

    def kill(self, container: str) -> None:
        with _fine_if_gone():
            _call(f"kill {container}", lambda: self._api.kill(container, "KILL"))

    def commit(self, container: str, name: str, labels: Mapping[str, str]) -> str:
        """Its files as an image called `name`; it is not held still for it. The image's id."""
        repository, _, tag = name.partition(":")
        conf = {"Labels": dict(labels)}
        made = _call(
            f"commit {container}",
            lambda: self._long.commit(
                container, repository=repository, tag=tag, pause=False, conf=conf
            ),
        )
        return str(made["Id"])

    def flatten(self, container: str, name: str, labels: Mapping[str, str]) -> str:
        """Its files as an image of one layer, called `name`; the image's id."""
        root = _call(f"export {container}", lambda: self._long.export(container))
        return self.import_root(root, name, labels)

    def holds(self, container: str, found: Sequence[bytes]) -> bool:
        """Whether any of these byte strings stands in the tar of its root."""
        overlap = max(len(one) for one in found) - 1
        held = b""
        for piece in _call(f"export {container}", lambda: self._long.export(container)):
            held += piece
            if any(one in held for one in found):
                return True
            held = held[-overlap:] if overlap else b""
        return False

    def diff(self, container: str) -> list[tuple[str, int]]:
        """Each path that is not as its image has it, and the daemon's number for how."""
        told = _call(f"compare {container}", lambda: self._long.diff(container)) or ()
        return [(str(one["Path"]), int(one["Kind"])) for one in told]

    def copy(self, source: str, target: str, path: str) -> None:
        """Lay what is at `path` of one container at the same path of another; fine if nothing."""

        def carry() -> None:
            pieces, _ = self._long.get_archive(source, path)
            self._long.put_archive(target, path.rpartition("/")[0] or "/", pieces)

        with _fine_if_gone():
            _call(f"copy {path} of {source}", carry)

    def remove(self, container: str) -> None:
        """Kill it and remove all of it, at once; fine if it is gone."""
        with _fine_if_gone():
            _call(
                f"remove {container}",
                lambda: self._api.remove_container(container, force=True, v=True),
            )

    def containers(self, label: str) -> list[Mapping[str, Any]]:
        filters = {"label": label}
        return _call("list containers", lambda: self._api.containers(all=True, filters=filters))


def find_daemon(timeout_s: float = CALL_TIMEOUT_S) -> Daemon:
    """The daemon that answers here, as DOCKER_HOST or the usual socket has it; SandboxError."""
    return Daemon(timeout_s)


@contextmanager
def _fine_if(said: str) -> Iterator[None]:
    try:
        yield
    except DaemonError as exc:
        if said not in str(exc):
            raise


@contextmanager
def _fine_if_gone() -> Iterator[None]:
    try:
        yield
    except DaemonError as exc:
        if not exc.missing:
            raise


def _try_socket(url: str) -> None:
    """OSError with the path of a socket where nobody listens: the library would not name it, and
    would leave its own socket open."""
    if not url.startswith("unix://"):
        return
    path = url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(PING_TIMEOUT_S)
        try:
            trial.connect(path)
        except OSError as exc:
            raise OSError(f"{path}: {exc.strerror or exc}") from exc


def _pieces(archive: IO[bytes] | Iterator[bytes]) -> Iterator[bytes]:
    """Without a length, for what is sent so is sent in chunks."""
    if not hasattr(archive, "read"):
        yield from archive
        return
    while piece := archive.read(CHUNK_BYTES):
        yield piece


def _call(doing: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except (DockerException, OSError) as exc:
        raise _error(doing, exc) from exc


def _error(doing: str, exc: Exception) -> DaemonError:
    error = DaemonError(f"{doing}: {_words(exc)}")
    error.missing = isinstance(exc, NotFound)
    answer = exc.response if isinstance(exc, APIError) else None
    status = answer.status_code if answer is not None else 0
    text = str(exc)
    # Anything but a plain refusal: a daemon that restarts, is in the middle of something, or busy.
    error.may_pass = status in (0, 500, 502, 503, 504) or "is already in progress" in text
    return error


def _words(exc: Exception) -> str:
    text = exc.explanation if isinstance(exc, APIError) and exc.explanation else exc
    return " ".join(str(text).split())[:500]


def _limits_disk(driver: str, backing: str) -> bool:
    """overlay2 needs the project quotas of xfs; whether they are on, only a container tells."""
    return driver in ("btrfs", "zfs", "windowsfilter") or (
        driver == "overlay2" and backing == "xfs"
    )
