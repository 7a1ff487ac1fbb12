"""The `host` base of this engine: a small tree of the usual folders, users and programs."""

from collections.abc import Mapping

from rollout.sandbox.memory.builtins import sh
from rollout.sandbox.memory.execute import MARK
from rollout.sandbox.memory.files import FileSystem, Folder, Link, Special
from rollout.sandbox.memory.process import Program
from rollout.sandbox.memory.programs_copies import PROGRAMS as COPY_PROGRAMS
from rollout.sandbox.memory.programs_files import PROGRAMS as FILE_PROGRAMS
from rollout.sandbox.memory.programs_patterns import PROGRAMS as PATTERN_PROGRAMS
from rollout.sandbox.memory.programs_process import PROGRAMS as PROCESS_PROGRAMS
from rollout.sandbox.memory.programs_text import PROGRAMS as TEXT_PROGRAMS

PROGRAMS: Mapping[str, Program] = {
    **COPY_PROGRAMS,
    **FILE_PROGRAMS,
    **PATTERN_PROGRAMS,
    **PROCESS_PROGRAMS,
    **TEXT_PROGRAMS,
    "sh": sh,
    "bash": sh,
    "dash": sh,
}

_FOLDERS = (
    "dev etc home mnt opt proc root run srv sys tmp usr usr/bin usr/lib usr/local usr/local/bin "
    "usr/sbin usr/share var var/lib var/log var/tmp home/user"
)
_PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"
_HOSTS = b"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 sandbox\n"
_OS_RELEASE = b'NAME="rollout memory engine"\nID=rollout-memory\n'
_USER = 1000


def base_tree() -> Folder:
    """A fresh tree; the caller may do with it what it likes."""
    files = FileSystem()
    for folder in _FOLDERS.split():
        files.make_folder(f"/{folder}")
    for name in ("bin", "sbin", "lib"):
        files.root.children[name] = Link(target=f"usr/{name}", mode=0o777)
    for kind in ("null", "zero", "full", "urandom", "random"):
        device = "urandom" if kind == "random" else kind
        files.folder("/dev").children[kind] = Special(kind=device, mode=0o666)
    for path in ("/tmp", "/var/tmp"):
        files.folder(path).mode = 0o1777
    files.folder("/root").mode = 0o700
    home = files.folder("/home/user")
    home.uid = home.gid = _USER
    texts = {"passwd": _PASSWD, "group": _GROUP, "hosts": _HOSTS, "os-release": _OS_RELEASE}
    for name, data in texts.items():
        files.write_file(f"/etc/{name}", data)
    for name in PROGRAMS:
        files.write_file(f"/usr/bin/{name}", MARK + name.encode() + b"\n", mode=0o755)
    return files.root
