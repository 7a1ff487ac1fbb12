"""Typed records as JSON and back, for the link between a driver and its worker processes.

Not pickle: what arrives is built from the type that is expected, and from nothing else.
"""

import base64
import dataclasses
import types
import typing
from collections import abc
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any


def pack(value: Any) -> Any:
    """Plain JSON data of a record: dataclasses, enums, times, bytes and containers of them."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, abc.Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot cross to a worker process")


def unpack(hint: Any, data: Any) -> Any:
    """What `pack` made `data` of, if that is a `hint`; else TypeError or ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        return _unpack_union(args, data)
    if origin is tuple:
        return _unpack_tuple(args, data)
    if origin in (list, abc.Sequence, abc.Collection):
        return [unpack(args[0], item) for item in _expect(list, data)]
    if origin in (dict, abc.Mapping):
        return {key: unpack(args[1], item) for key, item in _expect(dict, data).items()}
    if hint is None or hint is types.NoneType:
        return _expect(types.NoneType, data)
    return _unpack_plain(hint, data)


def _unpack_plain(hint: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return _unpack_record(hint, data)
    if not isinstance(hint, type):
        raise TypeError(f"{hint} cannot cross to a worker process")
    if issubclass(hint, Enum):
        return hint(data)
    if hint is bytes:
        return base64.b64decode(_expect(str, data), validate=True)
    if hint is datetime:
        return datetime.fromisoformat(_expect(str, data))
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _expect(hint, data)


def _unpack_record(hint: Any, data: Any) -> Any:
    hints = _hints(hint)
    fields = _expect(dict, data)
    if unknown := fields.keys() - hints.keys():
        raise TypeError(f"{hint.__name__} has no {', '.join(sorted(unknown))}")
    return hint(**{name: unpack(hints[name], item) for name, item in fields.items()})


def _unpack_union(args: tuple[Any, ...], data: Any) -> Any:
    if data is None and types.NoneType in args:
        return None
    [only] = [arg for arg in args if arg is not types.NoneType]
    return unpack(only, data)


def _unpack_tuple(args: tuple[Any, ...], data: Any) -> Any:
    items = _expect(list, data)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(unpack(args[0], item) for item in items)
    return tuple(unpack(arg, item) for arg, item in zip(args, items, strict=True))


@cache
def _hints(record: Any) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _expect(kind: type, data: Any) -> Any:
    wrong_bool = isinstance(data, bool) and kind is not bool
    if not isinstance(data, kind) or wrong_bool:
        raise TypeError(f"expected {kind.__name__}, got {type(data).__name__}")
    return data
