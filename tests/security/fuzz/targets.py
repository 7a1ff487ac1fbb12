"""What reads bytes out of a sandbox or out of an archive, each as a function of bytes alone.

Whatever the bytes are, a target returns, having checked that what it let through keeps the rules.
Anything that it raises is a bug.
"""

import io
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress

from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.archived import is_tar, tree_of_tar
from rollout.sandbox.restore import read_entries
from rollout.sandbox.state_file import Stream
from rollout.sandbox.trees import TreeReader
from rollout.types import Tree, TreeEntry

LIMIT_BYTES = 10_000
LIMIT_ENTRIES = 50
PAYLOADS: tuple[Callable[[bytes], object], ...] = (
    wire.read_exit,
    wire.read_failure,
    wire.read_started,
    wire.read_entry,
)


def frames(data: bytes) -> None:
    """The codec, and every payload as if it were of each kind; cut in two and whole."""
    middle = len(data) // 2
    for pieces in ([data], [data[:middle], data[middle:]]):
        decoder = wire.Decoder()
        with suppress(SandboxError):
            for piece in pieces:
                for _, payload in decoder.feed(piece):
                    assert len(payload) <= wire.MAX_PAYLOAD_BYTES
                    for read in PAYLOADS:
                        with suppress(SandboxError):
                            read(payload)
                assert decoder.held_bytes < wire.MAX_PAYLOAD_BYTES + 5


def tree(data: bytes) -> None:
    """A tree as an init sends it."""
    reader = TreeReader(limit_bytes=LIMIT_BYTES, limit_entries=LIMIT_ENTRIES)
    with suppress(SandboxError):
        for kind, payload in wire.Decoder().feed(data):
            if kind == wire.Out.ENTRY:
                reader.entry(wire.read_entry(payload))
            elif kind == wire.Out.DATA:
                reader.data(payload)
        keeps_the_rules(reader.tree())


def archive(data: bytes) -> None:
    """A tar of anybody's."""
    file = io.BytesIO(with_checksums(data))
    if is_tar(file):
        with suppress(TreeRefused):
            keeps_the_rules(tree_of_tar(file, limit_bytes=LIMIT_BYTES, limit_entries=LIMIT_ENTRIES))


def kept_state(data: bytes) -> None:
    """A kept end state, once unzipped."""
    stream = Stream(io.BytesIO(with_checksums(data)), LIMIT_BYTES)  # type: ignore[arg-type]
    with suppress(TreeRefused, tarfile.HeaderError, EOFError, zlib.error, ValueError):
        for entry in read_entries(stream):
            assert entry.path[0] in (b"root", b"usr")
            assert not {b"", b".", b".."} & set(entry.path)
            assert sum(map(len, entry.content())) <= LIMIT_BYTES


def with_checksums(data: bytes) -> bytes:
    """Headers of a tar are not looked at with a wrong sum; it is put right wherever one may be."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for n, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            total = sum(block) - sum(block[148:156]) + 8 * 32
            blocks[n] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def keeps_the_rules(found: Tree) -> None:
    kinds = {entry.path: entry.kind for entry in found.entries}
    assert len(kinds) == len(found.entries) <= LIMIT_ENTRIES
    assert found.size_bytes <= LIMIT_BYTES
    for entry in found.entries:
        parts = entry.path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert entry.mode <= 0o777
        assert entry.kind in ("file", "dir", "link")
        for depth in range(1, len(parts)):
            assert kinds.get("/".join(parts[:depth]), "dir") == "dir"
        if entry.kind == "link":
            stays_inside(entry, kinds)


def stays_inside(link: TreeEntry, kinds: dict[str, str]) -> None:
    """By walking it as a kernel would, up to the first link on the way."""
    assert not link.target.startswith("/")
    at = link.path.split("/")[:-1]
    for part in link.target.split("/"):
        if part == "..":
            assert at, f"{link.path} -> {link.target} leaves its tree"
            at.pop()
        elif part not in ("", "."):
            at.append(part)
            if kinds.get("/".join(at)) == "link":
                assert ".." not in link.target.split(part, 1)[1].split("/")
                return


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "tree": tree,
    "archive": archive,
    "kept_state": kept_state,
}


def seeds() -> dict[str, list[bytes]]:
    """What is right, for each target, to begin from."""
    link = wire.entry(wire.EntryHead("link", 0o777, b"d/l", b"../f"), wire.Out.ENTRY)
    file = wire.entry(wire.EntryHead("file", 0o644, b"f", b""), wire.Out.ENTRY)
    sent = file + wire.frame(wire.Out.DATA, b"content") + link + wire.frame(wire.Out.OK)
    return {
        "frames": [sent, wire.frame(wire.Out.EXIT, bytes(8)), wire.frame(wire.Out.ERROR, bytes(9))],
        "tree": [sent],
        "archive": [tar("", form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)],
        "kept_state": [tar("root/", tarfile.PAX_FORMAT)],
    }


def tar(below: str, form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/l", tarfile.SYMTYPE), ("f", b"0")):
            info = tarfile.TarInfo(below + name)
            info.type, info.linkname = kind, "../f" if kind == tarfile.SYMTYPE else ""
            info.size = 7 if kind == b"0" else 0
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"SCHILY.xattr.user.a": "b"}
            made.addfile(info, io.BytesIO(b"content"))
    # Without the padding of whole records, of which there is nothing to learn.
    return out.getvalue().rstrip(b"\0") + bytes(1024)
