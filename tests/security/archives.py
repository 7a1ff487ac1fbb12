"""Tar archives that nobody means well with. Where they are unpacked, nothing outside may change.

Each is made for a place: `outside` is a folder beside the one that is unpacked into, as an absolute
path; `up` is the way to it from there; `below` is where the names of that reader begin.
"""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

DIR, FILE, LINK, HARD = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
EVIL = b"evil"
BOMB_BYTES = 96 << 20
MANY = 1_000_000


@dataclass(frozen=True)
class Place:
    outside: str
    up: str
    below: str = ""


def entry(name: str, kind: bytes = FILE, target: str = "", **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    made.mode = 0o755 if kind == DIR else 0o644
    made.size = len(EVIL) if kind == FILE else 0
    for key, value in more.items():
        setattr(made, key, value)
    return made


def tar(place: Place, entries: Iterable[tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for folder in filter(None, [place.below.rstrip("/")]):
            archive.addfile(entry(folder, DIR))
        for each in entries:
            archive.addfile(each, io.BytesIO(EVIL) if each.isreg() else None)
    return out.getvalue()


Make = Callable[[Place], bytes]
Entries = Callable[[Place], list[tarfile.TarInfo]]


def of(entries: Entries, form: int = tarfile.PAX_FORMAT) -> Make:
    return lambda place: tar(place, entries(place), form)


def raw(header: tarfile.TarInfo, content: bytes, *after: tarfile.TarInfo) -> Make:
    """An entry with content of a kind that tarfile does not write by itself."""

    def make(place: Place) -> bytes:
        header.size = len(content)
        blocks = header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
        return blocks + tar(place, after)

    return make


def pax(key: str, value: str, name: str = "x", kind: bytes = FILE) -> Make:
    return of(lambda p: [entry(p.below + name, kind, pax_headers={key: value})])


def pax_of_place(key: str, value: Callable[[Place], str], kind: bytes = FILE) -> Make:
    return of(lambda p: [entry(p.below + "x", kind, "y", pax_headers={key: value(p)})])


NAMES: dict[str, Make] = {
    "parent": of(lambda p: [entry(f"{p.below}{p.up}/evil")]),
    "parent further in": of(lambda p: [entry(f"{p.below}a/b/../../{p.up}/evil")]),
    "absolute": of(lambda p: [entry(f"{p.outside}/evil")]),
    "absolute folder": of(lambda p: [entry(f"{p.outside}/evil", DIR)]),
    "absolute link": of(lambda p: [entry(f"{p.outside}/evil", LINK, "x")]),
    "parent by a gnu name": of(
        lambda p: [entry(f"{p.below}{'d/../' * 30}{p.up}/evil")], tarfile.GNU_FORMAT
    ),
    "parent by a pax name": pax_of_place("path", lambda p: f"{p.below}{p.up}/evil"),
    "absolute by a pax name": pax_of_place("path", lambda p: f"{p.outside}/evil"),
    "a pax name of nothing": pax("path", ""),
    "a name with a nul": pax("path", "x\0y"),
    "a name of 300 bytes": of(lambda p: [entry(p.below + "n" * 300)]),
    "a name of 60 kB": of(lambda p: [entry(p.below + "/n" * 30_000)], tarfile.GNU_FORMAT),
    "1,000 folders deep": of(lambda p: [entry(p.below + "d/" * 1000 + "x")]),
}
LINKS: dict[str, Make] = {
    "write through a link": of(
        lambda p: [entry(p.below + "l", LINK, p.outside), entry(p.below + "l/evil")]
    ),
    "write through a link up": of(
        lambda p: [entry(p.below + "l", LINK, p.up), entry(p.below + "l/evil")]
    ),
    "write through a link to a link": of(
        lambda p: [
            entry(p.below + "a", LINK, p.outside),
            entry(p.below + "b", LINK, "a"),
            entry(p.below + "b/evil"),
        ]
    ),
    "folder through a link": of(
        lambda p: [entry(p.below + "l", LINK, p.outside), entry(p.below + "l/evil", DIR)]
    ),
    "link through a link": of(
        lambda p: [entry(p.below + "l", LINK, p.outside), entry(p.below + "l/evil", LINK, "x")]
    ),
    "hard link through a link": of(
        lambda p: [
            entry(p.below + "x"),
            entry(p.below + "l", LINK, p.outside),
            entry(p.below + "l/evil", HARD, p.below + "x"),
        ]
    ),
    "hard link to what is outside": of(
        lambda p: [entry(p.below + "x", HARD, f"{p.below}{p.up}/secret")]
    ),
    "hard link to an absolute name": of(
        lambda p: [entry(p.below + "x", HARD, f"{p.outside}/secret")]
    ),
    "hard link to the shadow file": of(lambda p: [entry(p.below + "x", HARD, "/etc/shadow")]),
    "hard link by a link": of(
        lambda p: [
            entry(p.below + "l", LINK, p.outside),
            entry(p.below + "x", HARD, p.below + "l/secret"),
        ]
    ),
    "hard link by a pax name": pax_of_place("linkpath", lambda p: f"{p.outside}/secret", HARD),
    "a folder that became a link": of(
        lambda p: [
            entry(p.below + "d", DIR),
            entry(p.below + "d", LINK, p.outside),
            entry(p.below + "d/evil"),
        ]
    ),
    "a folder of the mode of a link's end": of(
        lambda p: [entry(p.below + "l", LINK, p.outside), entry(p.below + "l", DIR, mode=0o777)]
    ),
}
KINDS: dict[str, Make] = {
    "memory device": of(lambda p: [entry(p.below + "x", tarfile.CHRTYPE, devmajor=1, devminor=1)]),
    "disk": of(lambda p: [entry(p.below + "x", tarfile.BLKTYPE, devmajor=8, devminor=0)]),
    "fifo": of(lambda p: [entry(p.below + "x", tarfile.FIFOTYPE)]),
    "sparse file": raw(entry("x", tarfile.GNUTYPE_SPARSE), b""),
    "sparse file by pax": pax("GNU.sparse.size", str(1 << 60)),
    "sparse map by pax": pax("GNU.sparse.map", "0,1," * 10_000),
}
BOMBS: dict[str, Make] = {
    "zeros": lambda p: gzip.compress(
        tar(p, [])[: len(tar(p, [])) - 10_240]
        + entry(p.below + "x", size=BOMB_BYTES).tobuf(tarfile.GNU_FORMAT)
        + bytes(BOMB_BYTES),
        1,
    ),
    "zeros in xz": lambda p: lzma.compress(
        entry(p.below + "x", size=BOMB_BYTES).tobuf(tarfile.GNU_FORMAT) + bytes(BOMB_BYTES),
        preset=0,
    ),
    "a long name of zeros": lambda p: gzip.compress(
        entry("@", tarfile.GNUTYPE_LONGNAME, size=BOMB_BYTES).tobuf(tarfile.GNU_FORMAT)
        + bytes(BOMB_BYTES),
        1,
    ),
    "a long link of letters": lambda p: gzip.compress(
        entry("@", tarfile.GNUTYPE_LONGLINK, size=BOMB_BYTES).tobuf(tarfile.GNU_FORMAT)
        + b"l" * BOMB_BYTES,
        1,
    ),
    "pax records without end": lambda p: gzip.compress(
        entry("@", tarfile.XHDTYPE, size=BOMB_BYTES).tobuf(tarfile.GNU_FORMAT)
        + b"20 comment=padding!\n" * (BOMB_BYTES // 20)
        + bytes(-BOMB_BYTES % 512),
        1,
    ),
    "a million names": lambda p: gzip.compress(
        b"".join(entry(f"{p.below}{n}", size=0).tobuf(tarfile.USTAR_FORMAT) for n in range(1000))
        * (MANY // 1000),
        1,
    ),
    "a pax size that is not there": pax("size", str(1 << 50)),
    "a negative pax size": pax("size", "-512"),
    "half a file": lambda p: (whole := tar(p, [entry(p.below + "x")]))[: whole.index(EVIL) + 2],
}
CORPUS: dict[str, Make] = NAMES | LINKS | KINDS | BOMBS
WHITEOUTS: dict[str, Make] = {
    "hides the parent": of(lambda p: [entry(f"{p.up}/.wh.secret", size=0)]),
    "hides a name of two dots": of(lambda p: [entry(".wh...", size=0)]),
    "hides a name of one dot": of(lambda p: [entry("a/.wh..", size=0)]),
    "hides nothing by name": of(lambda p: [entry("a/.wh.", size=0)]),
    "hides through a link": of(
        lambda p: [entry("l", LINK, p.outside), entry("l/.wh.secret", size=0)]
    ),
    "hides all through a link": of(
        lambda p: [entry("l", LINK, p.outside), entry("l/.wh..wh..opq", size=0)]
    ),
}
"""For layers of images, in which a name may say that another is gone."""
