"""Parts: the objects of a table folder, their names and their encodings.

    trajectories/writer=w0003/e0002-000017-<sha8>.parquet     what a worker wrote
    trajectories/writer=compact-42/e0004-000000-<sha8>.parquet  what log entry 42 rewrote

Rewritten parts stand beside the others under a writer of their own, not under a sibling folder,
so that after the end a bare `trajectories/**/*.parquet` finds every accepted row and only those.
The name carries the content's hash, so two writers can never mean different rows by one name.
"""

import hashlib
import re
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rollout.dataset.base import Part
from rollout.dataset.schema import TABLES
from rollout.errors import ConfigError

FORMATS = ("parquet", "arrow")

_NAME = re.compile(
    r"(trajectories|sequences)/writer=[^/]+/e\d{4,}-\d{6,}-[0-9a-f]{8}\.(parquet|arrow)"
)


def is_part(path: str) -> bool:
    """Whether `path` is spelt as only our own parts are; nothing else is ever deleted."""
    return _NAME.fullmatch(path) is not None


def writer_key(worker: str) -> str:
    """The worker's name as a hive value that every reader takes for a plain string."""
    key = re.sub(r"[^A-Za-z0-9_-]", "-", worker)
    return key if key[:1].isalpha() else f"w{key}"


def check_format(name: str) -> str:
    """`name`, or a ConfigError when no such format exists."""
    if name not in FORMATS:
        raise ConfigError(f"store.format is {name!r}; it must be one of {', '.join(FORMATS)}")
    return name


def make_part(
    table: pa.Table, *, name: str, writer: str, epoch: int, number: int, format: str
) -> tuple[Part, bytes]:
    """Encode in memory, so that what is put is whole; nothing is ever streamed to a store."""
    data = encode(table, format)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{name}/writer={writer}/e{epoch:04d}-{number:06d}-{sha256[:8]}.{format}"
    part = Part(table=name, path=path, rows=table.num_rows, bytes=len(data), sha256=sha256)
    return part, data


def encode(table: pa.Table, format: str) -> bytes:
    """The table as a Parquet or an Arrow IPC file, compressed with zstd."""
    sink = pa.BufferOutputStream()
    if format == "parquet":
        pq.write_table(table, sink, compression="zstd")
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, table.schema, options=options) as file:
            file.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_part(
    part: Part,
    source: bytes | str,
    columns: list[str] | None = None,
    filter: Any = None,
) -> pa.Table:
    """The part's rows in their order; `source` is its content or where it lies on this machine."""
    import pyarrow.dataset as pads

    format = pads.ParquetFileFormat() if part.path.endswith(".parquet") else pads.IpcFileFormat()
    if isinstance(source, bytes):
        fragment = format.make_fragment(pa.BufferReader(source))
    else:
        fragment = format.make_fragment(source, pafs.LocalFileSystem())
    return fragment.to_table(schema=TABLES[part.table], columns=columns, filter=filter)


def without(table: pa.Table, trajectory_ids: Collection[str]) -> pa.Table:
    """The rows of all other trajectories, in the same order."""
    return table.filter(~pc.field("trajectory_id").isin(sorted(trajectory_ids)))
