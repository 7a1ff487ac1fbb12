"""Layers on disk: the host base, built images and snapshots.

A layer is a folder with `root`, maybe `usr`, and `layer.json`. It never changes once it has its
name. Layers keep the ids they were written with; `layer.json` tells the first uid of that range.

The host base is a small generated skeleton for `/` and the host's live /usr below it. Nothing else
of the host is there: no home, no keys, no shadow, no environment.
"""

import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.owner import remove_tree
from rollout.types import digest_of

HOST = "host"
HOSTNAME = "sandbox"
"""Of every sandbox (see init/sandbox.c), so that /etc/hosts is the same for all."""
FILE_LIMIT_BYTES = 8 << 20
"""A file of the host's /etc beyond this is left out."""

LINKS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
FOLDERS = {
    "dev": 0o755,
    "etc": 0o755,
    "etc/apt/apt.conf.d": 0o755,
    "etc/apt/preferences.d": 0o755,
    "etc/apt/sources.list.d": 0o755,
    "etc/apt/trusted.gpg.d": 0o755,
    "home": 0o755,
    "home/user": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/cache/apt/archives/partial": 0o755,
    "var/lib/apt/lists/partial": 0o755,
    "var/lib/dpkg/info": 0o755,
    "var/lib/dpkg/updates": 0o755,
    "var/lib/dpkg/triggers": 0o755,
    "var/log/apt": 0o755,
    "var/mail": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
    "workspace": 0o755,
}
PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
_apt:x:42:65534::/nonexistent:/usr/sbin/nologin
user:x:1000:1000:user:/home/user:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
sudo:x:27:user
www-data:x:33:
shadow:x:42:
utmp:x:43:
staff:x:50:
users:x:100:
user:x:1000:
nogroup:x:65534:
"""
SHADOW = "".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in PASSWD.splitlines())
"""Nobody has a password; without the file, su and sshd refuse everybody."""
PROFILE = """export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
for file in /etc/profile.d/*.sh; do
  if [ -r "$file" ]; then . "$file"; fi
done
unset file
"""
WRITTEN = {
    "etc/passwd": PASSWD,
    "etc/group": GROUP,
    "etc/shadow": "".join(
        f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in PASSWD.splitlines()
    ),
    "etc/apt/sources.list": "",
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost\n",
    "etc/resolv.conf": "",
    "etc/fstab": "",
    "etc/sudoers": "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
    "services: files\nprotocols: files\nrpc: files\nethers: files\nnetgroup: files\n",
    "etc/profile": PROFILE,
    "etc/bash.bashrc": "",
    "var/lib/dpkg/status": "",
    "var/lib/dpkg/available": "",
    "var/lib/dpkg/lock": "",
    "var/lib/dpkg/lock-frontend": "",
}
PRIVATE = {"etc/shadow": 0o640, "etc/sudoers": 0o440}
COPIED = (
    "alternatives",
    "ssl/openssl.cnf",
    "ssl/certs",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "timezone",
    "os-release",
    "debian_version",
    "lsb-release",
    "services",
    "protocols",
    "rpc",
    "ethertypes",
    "inputrc",
    "terminfo",
    "login.defs",
    "shells",
    "mime.types",
    "magic",
    "magic.mime",
    "perl",
    "fonts",
    "locale.alias",
    "java-*",
    "maven/m2.conf",
    "maven/logging",
    "python3*",
    "php",
    "emacs",
    "vim",
    "skel",
    "pam.conf",
    "pam.d",
    "security/limits.conf",
    "gai.conf",
    "adduser.conf",
    "deluser.conf",
    "debconf.conf",
    "dpkg",
    "apt/trusted.gpg.d",
)
"""Below /etc: what programs of /usr look for. No file that people put keys, tokens or proxies in
(npmrc, pip.conf, profile, apt.conf, maven's settings) is here, and what the world may not read is
left out whatever its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer and how its files are owned."""

    uid_base: int = 0
    live_usr: bool = False
    """The host's /usr stands below this layer's."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """What the two overlays of a sandbox stand on, topmost first: (first uid, folder)."""

    root: tuple[tuple[int, Path], ...]
    usr: tuple[tuple[int, Path], ...]
    top_uid: int
    """Of the topmost layer: a sandbox in the same range needs no mapping of ids."""


class ImageStore:
    """Layers below one root folder. A layer's name is its folder, relative to that."""

    def __init__(self, root_dir: Path) -> None:
        self._root_dir = root_dir
        self._layers: dict[str, Layer] = {}

    def folder(self, name: str) -> Path:
        return self._root_dir / name

    def built(self, key: str) -> str:
        """The name under which a built image's layer is kept."""
        return f"images/{key}"

    def has(self, name: str) -> bool:
        return (self.folder(name) / "layer.json").exists()

    def stacks(self, names: tuple[str, ...]) -> Stacks:
        """SandboxError if a layer is gone."""
        root: list[tuple[int, Path]] = []
        usr: list[tuple[int, Path]] = []
        layers = [(self.folder(name), self._read(name)) for name in reversed(names)]
        for folder, layer in layers:
            root.append((layer.uid_base, folder / "root"))
            if (folder / "usr").is_dir():
                usr.append((layer.uid_base, folder / "usr"))
            if layer.live_usr:
                usr.append((0, Path("/usr")))
        return Stacks(tuple(root), tuple(usr), layers[0][1].uid_base)

    def _read(self, name: str) -> Layer:
        if name not in self._layers:
            try:
                text = (self.folder(name) / "layer.json").read_text()
            except FileNotFoundError as exc:
                raise SandboxError(
                    f"layer {name} is gone from {self._root_dir}: build the image again"
                ) from exc
            self._layers[name] = Layer(**json.loads(text))
        return self._layers[name]

    def seal(self, folder: Path, layer: Layer) -> None:
        """Make a folder with `root` a layer: the last thing before it gets its name."""
        (folder / "layer.json").write_text(json.dumps(asdict(layer)))

    def keep(self, name: str, target: str) -> None:
        """Give a layer another name; the first to do so wins."""
        self.folder(target).parent.mkdir(mode=0o700, exist_ok=True)
        try:
            self.folder(name).rename(self.folder(target))
        except OSError:
            if not self.has(target):
                raise
            remove_tree(self.folder(name))
        self._layers.pop(name, None)

    def drop(self, name: str) -> None:
        self._layers.pop(name, None)
        remove_tree(self.folder(name))

    def host_base(self) -> str:
        """The host's layer, generated where it is missing or the host has changed. Blocks."""
        bases = self._root_dir / "base"
        bases.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="making-", dir=bases))
        try:
            _make_skeleton(made / "root")
            self.seal(made, Layer(live_usr=True))
            made.chmod(0o755)
            name = f"base/{HOST}-{_digest_of_tree(made / 'root')[:16]}"
            if not self.has(name):
                self.keep(f"base/{made.name}", name)
        finally:
            remove_tree(made)
        return name


def fresh_name(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:12]}"


# ---------------------------------------------------------------- the skeleton


def _make_skeleton(root: Path) -> None:
    root.mkdir()
    root.chmod(0o755)
    for name, mode in FOLDERS.items():
        for folder in reversed((root / name, *(root / name).parents)):
            if folder.is_relative_to(root) and not folder.exists():
                folder.mkdir()
                folder.chmod(0o755)
        (root / name).chmod(mode)
    for name in LINKS:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        elif Path("/", name).exists():
            raise SandboxError(f"/{name} is no link into /usr here, so no host base can be made")
    for name, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        (root / name).symlink_to(target)
    for name, text in WRITTEN.items():
        (root / name).write_text(text)
        (root / name).chmod(PRIVATE.get(name, 0o644))
    os.chown(root / "home/user", 1000, 1000)
    for source in _wanted():
        _copy(source, root / source.relative_to("/"))
    (root / "etc/mtab").symlink_to("/proc/self/mounts")


def _wanted() -> Iterator[Path]:
    for pattern in COPIED:
        for top in sorted(Path("/etc").glob(pattern)):
            yield top
            if top.is_dir() and not top.is_symlink():
                yield from sorted(top.rglob("*"))


def _copy(source: Path, target: Path) -> None:
    """What the world may read, links as links; the private half of a key pair never is."""
    status = source.lstat()
    if not stat.S_ISLNK(status.st_mode) and not status.st_mode & 0o004:
        return
    for parent in reversed(target.parents):
        if not parent.exists():
            parent.mkdir()
            parent.chmod(0o755)
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(exist_ok=True)
        target.chmod(0o755)
    elif stat.S_ISLNK(status.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(status.st_mode) and status.st_size <= FILE_LIMIT_BYTES:
        shutil.copyfile(source, target)
        target.chmod(0o755 if status.st_mode & 0o100 else 0o644)


def _digest_of_tree(root: Path) -> str:
    entries = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: bytes | str = b""
        if kind == stat.S_IFLNK:
            content = str(path.readlink())
        elif kind == stat.S_IFREG:
            content = path.read_bytes()
        entries.append([str(path.relative_to(root)), status.st_mode, content])
    return digest_of(entries)
