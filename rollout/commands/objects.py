"""`objects put | get | list | show`: files and folders that blueprints mount by id."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rollout.checks import nearest
from rollout.commands.where import STORE_WORDS, read_words
from rollout.config import ObjectsConf
from rollout.errors import BuildError, ConfigError, StoreError
from rollout.objects.store import Info, ObjectStore
from rollout.objects.where import open_objects
from rollout.report.render import show, text

USAGE = """\
python -m rollout objects put PATH [key=value …]
python -m rollout objects get ID TARGET [key=value …]
python -m rollout objects list [key=value …]
python -m rollout objects show ID [key=value …]

put prints the id of the file or folder, `sha256:…`: the same content has the same id everywhere. A
folder is kept as a tar of its names, modes, links and contents, without owners and times. In a
blueprint it is mounted by that id: folders and every tar (also .gz, .xz, .bz2) unpacked, all else
as a file.

PATH       a file or a folder of at most 1 GiB
ID         an id, or its first letters
TARGET     a file that is not there yet; it gets the bytes as stored
key=value  objects.uri= objects.endpoint_url= objects.region= (default: `_objects` in store.uri, so
           runs/_objects), and store.uri= store.endpoint_url= store.region=
"""
OBJECT_WORDS = ("objects.uri", "objects.endpoint_url", "objects.region")
LARGE_BYTES = 64 << 20
"""From here on it is told how far it is."""
SHOWN_NAMES = 20


def main(argv: Sequence[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    words = read_words(argv[1:], (*OBJECT_WORDS, *STORE_WORDS), USAGE)
    verb, wanted = VERBS.get(argv[0], (None, 0))
    if verb is None:
        hint = nearest(argv[0], tuple(VERBS)) or f"; there are: {', '.join(VERBS)}"
        raise ConfigError(f"objects {argv[0]}: unknown{hint}")
    if len(words.plain) != wanted:
        raise ConfigError(
            f"objects {argv[0]} takes {wanted} words, saw {len(words.plain)}\n{USAGE}"
        )
    settings = {key.removeprefix("objects."): word for key, word in words.settings.items()}
    conf = ObjectsConf(
        uri=settings.get("uri"),
        endpoint_url=settings.get("endpoint_url"),
        region=settings.get("region"),
    )
    objects = open_objects(conf, words.store)
    try:
        verb(objects, *words.plain)
    except (StoreError, BuildError) as exc:
        raise ConfigError(str(exc)) from exc
    finally:
        objects.close()
    return 0


def _put(objects: ObjectStore, path: str) -> None:
    source = Path(path).expanduser()
    progress = _Progress(source)
    object_id = objects.put_path(source, progress.add)
    progress.end()
    sys.stdout.write(f"{object_id}\n")


class _Progress:
    """Tells on a terminal how much of something large was read."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._bytes = self._told = 0
        self._on = sys.stderr.isatty()

    def add(self, count: int) -> None:
        self._bytes += count
        if self._on and self._bytes - self._told >= LARGE_BYTES:
            self._told = self._bytes
            sys.stderr.write(f"\r{self._source.name}: {self._bytes >> 20} MiB read")
            sys.stderr.flush()

    def end(self) -> None:
        if self._told:
            sys.stderr.write("\n")


def _get(objects: ObjectStore, prefix: str, target: str) -> None:
    path = Path(target).expanduser()
    if path.exists():
        raise ConfigError(f"{target}: is there already; name a new file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {path.absolute().parent}")
    objects.get(objects.full_id(prefix), path)


def _list(objects: ObjectStore) -> None:
    found = objects.infos()
    lines = [_line(info) for info in found] or [f"{objects.uri} holds no objects"]
    show(sys.stdout, text("\n".join(lines)))


def _show(objects: ObjectStore, prefix: str) -> None:
    info = objects.info(objects.full_id(prefix))
    lines = [_line(info)]
    if info.kind == "tar":
        tree = objects.read_tree(info.id)
        lines.append(f"{len(tree.entries)} names, {tree.size_bytes} bytes unpacked")
        for entry in tree.entries[:SHOWN_NAMES]:
            kind = {"dir": "/", "link": f" -> {entry.target}"}.get(entry.kind, "")
            lines.append(f"  {entry.mode:04o} {len(entry.data):>12}  {entry.path}{kind}")
        if len(tree.entries) > SHOWN_NAMES:
            lines.append(f"  … {len(tree.entries) - SHOWN_NAMES} more")
    show(sys.stdout, text("\n".join(lines)))


def _line(info: Info) -> str:
    size = f"{info.size_bytes}" if info.size_bytes >= 0 else "?"
    return f"{info.id}  {info.kind or '?':<4}  {size:>12}  {info.created_at[:10]}  {info.name}"


VERBS: dict[str, tuple[Callable[..., None], int]] = {
    "put": (_put, 1),
    "get": (_get, 2),
    "list": (_list, 0),
    "show": (_show, 1),
}
"""What each is done by, and how many words it takes."""
