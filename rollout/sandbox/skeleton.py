"""The skeleton of the host base: the little of / that programs of the host's /usr look for.

Made out of the host's /etc by a list of names and of what its packages brought (installed.py);
nothing else of the host is there: no home, no keys, no shadow, no environment.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.installed import folders, service_users, unchanged_config
from rollout.types import digest_of

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
PROFILE = """export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
for file in /etc/profile.d/*.sh; do
  if [ -r "$file" ]; then . "$file"; fi
done
unset file
"""
WRITTEN = {
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


@dataclass(frozen=True, slots=True)
class _Entry:
    """A folder, a file with its content, or a link with its target."""

    kind: str
    mode: int = 0o755
    content: bytes = b""
    uid: int = 0
    gid: int = 0


class Skeleton:
    """All of it, read but not written: its digest tells whether it is there already."""

    def __init__(self) -> None:
        """SandboxError if the host's / is of another make."""
        self._entries: dict[str, _Entry] = {}
        self._add_own()
        for source in (*_wanted(), *unchanged_config()):
            self._copy(source)
        for empty in folders():
            self._add(empty.path, _Entry("folder", empty.mode, uid=empty.uid, gid=empty.gid))
        self._add("etc/mtab", _Entry("link", content=b"/proc/self/mounts"))

    @property
    def digest(self) -> str:
        return digest_of([[name, *astuple(self._entries[name])] for name in sorted(self._entries)])

    def write(self, root: Path) -> None:
        """Into a new folder; owners only as root, else all of it has the one there is."""
        root.mkdir()
        root.chmod(0o755)
        for name, entry in self._entries.items():
            path = root / name
            if entry.kind == "link":
                path.symlink_to(os.fsdecode(entry.content))
                continue
            if entry.kind == "folder":
                path.mkdir()
            else:
                path.write_bytes(entry.content)
            if os.geteuid() == 0 and (entry.uid or entry.gid):
                os.chown(path, entry.uid, entry.gid)
            path.chmod(entry.mode)

    def _add_own(self) -> None:
        for name, mode in FOLDERS.items():
            owner = 1000 if name == "home/user" else 0
            self._add(name, _Entry("folder", mode, uid=owner, gid=owner))
        for name in LINKS:
            if Path("/", name).is_symlink():
                self._add(name, _Entry("link", content=os.fsencode(Path("/", name).readlink())))
            elif Path("/", name).exists():
                raise SandboxError(
                    f"/{name} is no link into /usr here, so no host base can be made"
                )
        for name, target in (("var/run", b"/run"), ("var/lock", b"/run/lock")):
            self._add(name, _Entry("link", content=target))
        for name, text in {**WRITTEN, **_accounts()}.items():
            self._add(name, _Entry("file", PRIVATE.get(name, 0o644), text.encode()))

    def _add(self, name: str, entry: _Entry) -> None:
        """Unless it is there, or below what is no folder; folders above it come before it."""
        parent, _, _ = name.rpartition("/")
        if parent and parent not in self._entries:
            self._add(parent, _Entry("folder"))
        above = self._entries.get(parent)
        if not parent or (above is not None and above.kind == "folder"):
            self._entries.setdefault(name, entry)

    def _copy(self, source: Path) -> None:
        """What the world may read, links as links; the private half of a key pair never is."""
        name = str(source).strip("/")
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            self._add(name, _Entry("link", content=os.fsencode(source.readlink())))
        elif not status.st_mode & 0o004:
            return
        elif stat.S_ISDIR(status.st_mode):
            self._add(name, _Entry("folder"))
        elif stat.S_ISREG(status.st_mode) and status.st_size <= FILE_LIMIT_BYTES:
            mode = 0o755 if status.st_mode & 0o100 else 0o644
            self._add(name, _Entry("file", mode, source.read_bytes()))


def _accounts() -> dict[str, str]:
    """Nobody has a password; without the file of them, su and sshd refuse everybody."""
    users, groups = service_users()
    passwd, group = _joined(PASSWD, users), _joined(GROUP, groups)
    names = [line.split(":")[0] for line in passwd.splitlines()]
    shadow = "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names)
    return {"etc/passwd": passwd, "etc/group": group, "etc/shadow": shadow}


def _joined(ours: str, theirs: str) -> str:
    """Lines of both; of one name ours."""
    names = {line.split(":")[0] for line in ours.splitlines()}
    more = (line for line in theirs.splitlines() if line.split(":")[0] not in names)
    return ours + "".join(f"{line}\n" for line in more)


def _wanted() -> Iterator[Path]:
    for pattern in COPIED:
        for top in sorted(Path("/etc").glob(pattern)):
            yield top
            if top.is_dir() and not top.is_symlink():
                yield from sorted(top.rglob("*"))


def make_folders_of(usr: Path, target: Path) -> None:
    """The folders of the host's /usr, empty and one's own, to stand on top of it.

    Where ids cannot be mapped, the host's folders belong to nobody, and nothing could be made or
    removed in them; merged with these they can be written. 16,000 of them take two seconds, once.
    """
    target.mkdir()
    target.chmod(0o755)
    for folder, names, _ in os.walk(usr):
        for name in names:
            source = Path(folder, name)
            if not source.is_symlink() and os.access(source, os.R_OK | os.X_OK):
                made = target / source.relative_to(usr)
                made.mkdir()
                made.chmod(source.stat().st_mode & 0o7777 | 0o700)
