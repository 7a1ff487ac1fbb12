"""Names and numbers of users and groups, as /etc/passwd and /etc/group have them."""

from rollout.sandbox.memory.files import File, FileSystem, Who
from rollout.sandbox.memory.process import to_text

NO_HOME = "/"


def _entries(files: FileSystem, database: str) -> list[list[str]]:
    try:
        node = files.node(f"/etc/{database}")
    except OSError:
        return []
    if not isinstance(node, File):
        return []
    lines = (line.split(":") for line in to_text(node.data).splitlines())
    return [line for line in lines if len(line) > 2 and line[2].isdigit()]


def name_of(files: FileSystem, database: str, number: int) -> str:
    """The name of a uid (`passwd`) or gid (`group`); the number itself if it has none."""
    return next((e[0] for e in _entries(files, database) if int(e[2]) == number), str(number))


def find_user(files: FileSystem, text: str) -> Who | None:
    """`user[:group]`, names or numbers; None if there is no such user or group."""
    user, colon, group = text.partition(":")
    gid = _group(files, group) if colon and group else None
    if colon and group and gid is None:
        return None
    if not user:
        return Who(0, gid or 0)
    for entry in _entries(files, "passwd"):
        if user in (entry[0], entry[2]):
            primary = int(entry[3]) if len(entry) > 3 and entry[3].isdigit() else 0
            return Who(int(entry[2]), primary if gid is None else gid)
    return Who(int(user), gid or 0) if user.isdigit() else None


def _group(files: FileSystem, text: str) -> int | None:
    for entry in _entries(files, "group"):
        if text in (entry[0], entry[2]):
            return int(entry[2])
    return int(text) if text.isdigit() else None


def home_of(files: FileSystem, uid: int) -> str:
    for entry in _entries(files, "passwd"):
        if int(entry[2]) == uid and len(entry) > 5:
            return entry[5]
    return NO_HOME
