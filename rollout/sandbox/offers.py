"""What a `run` step of a build may see and its layer must not keep: secrets, a name server, roots
of trust, where packages come from.

All of it lies in a layer of its own, put between the base and what the step writes, and left out
of the image. So nothing has to be taken back; only what the step itself has touched is looked for.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rollout.errors import BuildError
from rollout.sandbox.bases import HOST
from rollout.sandbox.build_secrets import Given
from rollout.sandbox.layered import ROOT, Layered, Seen

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
NETWORK_ENV = (
    *PROXIES,
    *(name.upper() for name in PROXIES),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "UV_DEFAULT_INDEX", "UV_INDEX"),
    *("NPM_CONFIG_REGISTRY", "npm_config_registry", "GOPROXY"),
)
"""Variables of this process that a step with `build_network: host` gets, unless it has its own."""
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
BUNDLE_ENV = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
)
OFFERED_BUNDLE = "run/rollout-build/ca-certificates.crt"
OFFERED_APT = "run/rollout-build/apt.conf"
USUAL_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
APT = (
    "sources.list",
    "sources.list.d",
    "trusted.gpg",
    "trusted.gpg.d",
    "keyrings",
    "preferences.d",
)
"""Below the host's /etc/apt; not its apt.conf, which may run programs, and no passwords."""
LIMIT_BYTES = 16 << 20
_PASSWORD = re.compile(r"://[^/@\s]*:([^/@\s]+)@")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_BELOW = ("usr", "dev", "proc", "sys")


@dataclass(slots=True)
class Offer:
    """Files for one step, by path without the leading `/`, and variables."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Content and mode."""
    env: dict[str, str] = field(default_factory=dict)

    def add_secrets(self, given: Iterable[Given], user: str) -> None:
        """Variables, and files that the step's user can read: nobody else is in there."""
        mode = 0o400 if user in ("", "root", "0") else 0o444
        for each in given:
            if each.target:
                self.files[each.target.lstrip("/")] = os.fsencode(each.value), mode
            else:
                self.env[each.secret.env] = each.value

    def add_network(self, below: Layered, base: str) -> None:
        """What it takes to reach hosts by name from the host's network, and to trust them."""
        self.env.update((name, os.environ[name]) for name in NETWORK_ENV if name in os.environ)
        self._add_file("etc/resolv.conf", Path("/etc/resolv.conf"))
        bundle = os.environ.get("SSL_CERT_FILE", "")
        for path in (bundle, *BUNDLES):
            if path and self._add_file(OFFERED_BUNDLE, Path(path)):
                self.env.update((name, f"/{OFFERED_BUNDLE}") for name in BUNDLE_ENV)
                self.env["APT_CONFIG"] = f"/{OFFERED_APT}"
                line = f'Acquire::https::CAInfo "/{OFFERED_BUNDLE}";\n'
                self.files[OFFERED_APT] = line.encode(), 0o644
                if below.look(USUAL_BUNDLE) is None and _may_hold(below, USUAL_BUNDLE):
                    self.files[USUAL_BUNDLE] = self.files[OFFERED_BUNDLE]
                break
        if base == HOST:
            for name in APT:
                self._add_all(f"etc/apt/{name}", Path("/etc/apt") / name)

    def _add_all(self, path: str, source: Path) -> None:
        if source.is_dir():
            for child in sorted(source.iterdir()):
                self._add_file(f"{path}/{child.name}", child)
        else:
            self._add_file(path, source)

    def _add_file(self, path: str, source: Path) -> bool:
        with suppress(OSError):
            if source.is_file() and source.stat().st_size <= LIMIT_BYTES:
                self.files[path] = source.read_bytes(), 0o644
                return True
        return False

    @property
    def passwords(self) -> tuple[str, ...]:
        """Those in the addresses of proxies and indexes, which no log may tell."""
        found = (_PASSWORD.search(value) for value in self.env.values())
        return tuple(match[1] for match in found if match)

    def write(self, root: Path, below: Layered, where: str) -> None:
        """Make the layer's folder. Blocks. BuildError where a file cannot be shown at its path."""
        root.mkdir()
        root.chmod(0o755)
        for path, (content, mode) in self.files.items():
            parts = path.split("/")
            if parts[0] in _NOT_BELOW or not all(parts) or {".", ".."} & set(parts):
                raise BuildError(
                    f"{where}: nothing can be mounted at /{path}; choose a target outside of "
                    f"/{', /'.join(_NOT_BELOW)}"
                )
            for folder, seen in below.folders(path):
                if seen is not None and not seen.is_folder:
                    raise BuildError(
                        f"{where}: nothing can be mounted at /{path}, for /{folder} is a link or a "
                        "file; choose another target"
                    )
                _make_folder(root / folder, seen or ROOT)
            target = root / path
            with target.open("xb") as file:
                file.write(content)
            target.chmod(mode)

    def strip(self, folders: Mapping[str, Path]) -> None:
        """Take out of a finished layer what a step has copied there by touching it. Blocks.

        A file that was offered under a usual name and now holds something else is the step's own.
        """
        for path, (content, _) in self.files.items():
            _strip(folders["root"], path, content if path == USUAL_BUNDLE else None)


def _may_hold(below: Layered, path: str) -> bool:
    return all(seen is None or seen.is_folder for _, seen in below.folders(path))


def _make_folder(folder: Path, like: Seen) -> None:
    """As the one of the base, whose owner and mode it hides."""
    if folder.is_dir():
        return
    folder.mkdir()
    if os.geteuid() == 0:  # an ordinary user has one owner for all
        os.chown(folder, like.uid, like.gid)
    folder.chmod(stat.S_IMODE(like.mode))


def _strip(root: Path, path: str, only: bytes | None) -> None:
    """Remove the name, or the whiteout in its place; with `only`, a file of just that content."""
    *above, name = path.split("/")
    at = os.open(root, _FOLDER)
    try:
        for part in above:
            below = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return
        if only is None or (stat.S_ISREG(found.st_mode) and _same(at, name, found, only)):
            os.unlink(name, dir_fd=at)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
    finally:
        os.close(at)


def _same(at: int, name: str, found: os.stat_result, content: bytes) -> bool:
    if found.st_size != len(content):
        return False
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    with os.fdopen(file, "rb") as opened:
        return opened.read(len(content) + 1) == content
