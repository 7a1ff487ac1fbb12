"""What the host's packages have outside /usr and their programs look for: for the host base.

Config files that nobody has changed since their package brought them, so that nothing which people
wrote into one can be among them; the empty folders of /var and /run; the users that services run
as. Told by dpkg: hosts of other kinds get none of it.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/var/lib/dpkg/status")
MERGED = Path("/var/lib/ucf/hashfile")
LISTS = Path("/var/lib/dpkg/info")
TMPFILES = Path("/usr/lib/tmpfiles.d")
PASSWD, GROUP = Path("/etc/passwd"), Path("/etc/group")

_CONFFILE = re.compile(r"^ (/etc/\S+) ([0-9a-f]{32})$", re.MULTILINE)
_UCF = re.compile(r"^([0-9a-f]{32})  (/etc/\S+)$", re.MULTILINE)
_FOLDER = re.compile(rb"^/var/(?:cache|lib|log|spool|www)/.+$", re.MULTILINE)
_RUN = re.compile(r"^d\s+/(run/\S+)\s+([0-7]{3,4})\s+(\S+)\s+(\S+)", re.MULTILINE)
USELESS = re.compile(
    r"/etc/(X11|apparmor|bash_completion|cron|dbus|grub|kernel|logrotate|modprobe|polkit|rc.\.d"
    r"|runit|sv|systemd|udev|update-motd|xdg)"
)
"""Of machines that boot, log in and keep time."""
SYSTEM_IDS = range(100, 1000)
"""Debian gives them to packages' users, as they come."""
FILE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """An empty folder, relative to /, with the owner and group it has on the host."""

    path: str
    mode: int
    uid: int
    gid: int


def unchanged_config() -> Iterator[Path]:
    """Files of /etc that are byte for byte what a package brought."""
    shipped = dict(_CONFFILE.findall(_read(STATUS)))
    shipped |= {path: digest for digest, path in _UCF.findall(_read(MERGED))}
    for name, digest in sorted(shipped.items()):
        path = Path(name)
        if not USELESS.match(name) and _md5(path) == digest:
            yield path


def _md5(path: Path) -> str:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_LIMIT_BYTES:
        return ""
    if not os.access(path, os.R_OK):  # an ordinary user runs the engine
        return ""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def service_users() -> tuple[str, str]:
    """Lines for /etc/passwd and /etc/group: the users of services that packages made."""
    groups = {line.split(":")[0]: line.split(":") for line in _lines(GROUP, 4)}
    users = [line.split(":") for line in _lines(PASSWD, 7)]
    made = [
        f"{name}:x:{uid}:{gid}:{name}:{home}:{shell}"
        for name, _, uid, gid, _, home, shell in users
        if _is_system(uid) and _is_service(home, shell)
    ]
    named = [f"{name}:x:{fields[2]}:" for name, fields in groups.items() if _is_system(fields[2])]
    return "".join(f"{line}\n" for line in made), "".join(f"{line}\n" for line in named)


def _is_system(number: str) -> bool:
    return number.isdigit() and int(number) in SYSTEM_IDS


def _is_service(home: str, shell: str) -> bool:
    """And nobody who logs in to this host to administer it."""
    return shell.endswith(("/nologin", "/false")) or home.startswith("/var/")


def folders() -> Iterator[Folder]:
    """Parents before children; what packages list below /var, and have made below /run."""
    listed: set[bytes] = set()
    for listing in LISTS.glob("*.list"):
        listed.update(_FOLDER.findall(listing.read_bytes()))
    for name in sorted(path.decode(errors="replace") for path in listed):
        path = Path(name)
        if os.access(path, os.X_OK) and path.is_dir() and not path.is_symlink():
            about = path.stat()
            yield Folder(name.strip("/"), about.st_mode & 0o7777, about.st_uid, about.st_gid)
    yield from _run_folders()


def _run_folders() -> Iterator[Folder]:
    uids, gids = _ids(PASSWD), _ids(GROUP)
    for source in sorted(TMPFILES.glob("*.conf")):
        if not source.name.startswith("systemd"):
            for path, mode, user, group in _RUN.findall(_read(source)):
                uid, gid = uids.get(user, 0), gids.get(group, 0)
                yield Folder(path, int(mode, 8), uid, gid)
    if "sshd" in uids:
        yield Folder("run/sshd", 0o755, 0, 0)  # its unit makes it, and no unit runs here


def _ids(file: Path) -> Mapping[str, int]:
    fields = (line.split(":") for line in _lines(file, 3))
    return {name: int(number) for name, _, number, *_ in fields if number.isdigit()}


def _lines(file: Path, least_fields: int) -> list[str]:
    return [line for line in _read(file).splitlines() if line.count(":") >= least_fields - 1]


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
