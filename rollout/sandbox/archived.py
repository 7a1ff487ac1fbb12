"""From the bytes of a tar to a tree, without touching a file system.

A tar may be anybody's. It is read forward only, with limits on what it holds and on each header, no
name is followed anywhere, and what a tree may not hold is refused.
"""

import lzma
import tarfile
import zlib
from typing import IO, Any, cast

from rollout.errors import TreeRefused
from rollout.sandbox.trees import check_tree
from rollout.sandbox.unpack import Refused, Stream, decompressed, parts_of
from rollout.types import Tree, TreeEntry

PERMISSIONS = 0o777
SLACK_BYTES = 4 << 10
"""Headers and padding of one entry, at most, as far as the whole stream's limit is concerned."""
DAMAGED = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError)


def is_tar(file: IO[bytes]) -> bool:
    """Whether it begins as a tar does, packed or not. The file is at its begin afterwards."""
    file.seek(0)
    try:
        tarfile.TarInfo.frombuf(
            decompressed(file).read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape"
        )
    except (*DAMAGED, Refused):
        return False
    finally:
        file.seek(0)
    return True


def tree_of_tar(file: IO[bytes], *, limit_bytes: int, limit_entries: int) -> Tree:
    """What a tar holds, also .gz, .xz and .bz2.

    Owners, times, setuid bits and extended attributes are dropped; hard links become files of
    their own. TreeRefused for absolute names, `..`, links that lead out, devices, fifos, sparse
    files, and more than the limits, unpacked.
    """
    try:
        entries = _entries(file, limit_bytes, limit_entries)
    except Refused as exc:
        raise TreeRefused(str(exc)) from exc
    except DAMAGED as exc:
        raise TreeRefused(f"the archive is damaged: {exc}") from exc
    tree = Tree(tuple(entries[path] for path in sorted(entries)))
    check_tree(tree)
    return tree


def _entries(file: IO[bytes], limit_bytes: int, limit_entries: int) -> dict[str, TreeEntry]:
    stream = Stream(decompressed(file), limit_bytes + limit_entries * SLACK_BYTES)
    archive: Any = tarfile.TarFile(
        fileobj=cast(Any, stream), encoding="utf-8", errors="surrogateescape"
    )
    found: dict[str, TreeEntry] = {}
    left = limit_bytes
    count = 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # it would keep them all
        count += 1
        if count > limit_entries:
            raise Refused(f"it holds more than {limit_entries} names")
        try:
            entry = _entry(member, stream, found, left)
        except Refused as exc:
            raise Refused(f"entry {member.name[:200]!r}: {exc}") from exc
        if entry is not None:
            left -= len(entry.data)
            found[entry.path] = entry
    if any(stream.last):
        raise Refused(f"it is damaged after {stream.tell()} bytes")
    return found


def _entry(
    member: tarfile.TarInfo, stream: Stream, found: dict[str, TreeEntry], left: int
) -> TreeEntry | None:
    path, mode = "/".join(parts_of(member.name)), member.mode & PERMISSIONS
    if not path:
        return None
    if member.isdir():
        return TreeEntry(path, "dir", mode)
    if member.issym():
        return TreeEntry(path, "link", PERMISSIONS, target=member.linkname)
    if member.islnk():
        first = found.get("/".join(parts_of(member.linkname)))
        if first is None or first.kind != "file":
            raise Refused(f"it is a hard link to {member.linkname[:200]!r}, no file before it")
        return TreeEntry(path, "file", first.mode, _within(first.data, left))
    if member.isdev():
        raise Refused("it is a fifo" if member.isfifo() else "it is a device")
    if member.sparse is not None or member.type == tarfile.GNUTYPE_SPARSE:
        raise Refused("it is a sparse file; pack it without --sparse")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
        raise Refused(f"it is of the unknown type {member.type!r}")
    if member.size > left:
        raise Refused("it brings the archive past its limit of bytes")
    return TreeEntry(path, "file", mode, _content(member, stream))


def _within(data: bytes, left: int) -> bytes:
    if len(data) > left:
        raise Refused("it brings the archive past its limit of bytes")
    return data


def _content(member: tarfile.TarInfo, stream: Stream) -> bytes:
    stream.seek(member.offset_data)
    data = bytearray()
    while len(data) < member.size:
        piece = stream.content(member.size - len(data))
        if not piece:
            raise Refused("the archive ends in the middle of it")
        data += piece
    return bytes(data)
