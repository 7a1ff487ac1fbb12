"""What users bring by dotted name: found, checked against its own signature, built in the worker.

Everything is checked before anything starts, so that a misspelt argument is one line in the
terminal and not a thousand failed rollouts.
"""

import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from rollout.checks import nearest
from rollout.errors import ConfigError, RolloutError
from rollout.types import Plugin, canonical_json

TARGET = "_target_"


def resolve(target: str) -> Callable[..., Any]:
    """The class or function named `package.module.Name`; ConfigError with the nearest name."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ConfigError(f'"{target}" is no dotted path of a class, such as package.module.Class')
    module = _import(module_name, target)
    found = getattr(module, name, None)
    if not callable(found):
        own = [k for k, v in vars(module).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise ConfigError(f'"{target}": {module_name} has no "{name}"{nearest(name, own)}')
    return typing.cast(Callable[..., Any], found)


def make(plugin: Plugin) -> Any:
    """Build what `plugin` names; ConfigError when its constructor refuses."""
    return construct(resolve(plugin.target), plugin.kwargs())


def construct(target: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    """Call somebody's constructor; whatever it raises is a ConfigError that names it."""
    try:
        return target(**params)
    except RolloutError:
        raise
    except Exception as exc:
        raise ConfigError(f"{target.__module__}.{target.__qualname__}: {exc}") from exc


def plugin_of(node: Mapping[str, Any], version: str = "") -> Plugin:
    """The plain, hashable form of a checked node."""
    params = {key: value for key, value in node.items() if key != TARGET}
    return Plugin(target=node[TARGET], params=canonical_json(params), version=version)


def arguments(node: Mapping[str, Any]) -> list[str]:
    """The argument names that the node's target takes; empty when there is no such target."""
    try:
        return list(_signature(resolve(str(node.get(TARGET, "")))).parameters)
    except (ConfigError, ValueError, TypeError):
        return []


def problems(where: str, node: Mapping[str, Any], method: str) -> list[str]:
    """What is wrong with one `_target_` node, one line each.

    `method` is the one method that what is built must have; it keeps a config that was read back
    from a store from calling whatever it names.
    """
    if not isinstance(node.get(TARGET), str):
        return [f"{where}.{TARGET}: must name a class, was {node.get(TARGET)!r}"]
    try:
        target = resolve(node[TARGET])
    except ConfigError as exc:
        return [f"{where}.{TARGET}: {exc}"]
    if not _gives(target, method):
        return [f'{where}.{TARGET}: "{node[TARGET]}" makes nothing with a method "{method}"']
    return list(_argument_problems(where, target, node))


def _argument_problems(
    where: str, target: Callable[..., Any], node: Mapping[str, Any]
) -> Iterator[str]:
    parameters = dict(_signature(target).parameters)
    hints = _hints(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key == TARGET:
            continue
        if key not in parameters:
            if not open_ended:
                known = f"; known: {', '.join(parameters) or 'none'}"
                yield f"{where}.{key}: unknown key{nearest(key, list(parameters)) or known}"
        elif key in hints and not fits(value, hints[key]):
            yield f"{where}.{key}: must be {spelled(hints[key])}, was {value!r}"
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in node:
            yield f"{where}.{name}: must be given"


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data may be passed for an annotation; what it cannot judge it lets pass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint is None or hint is type(None):
        return value is None
    kind = origin or hint
    if not isinstance(kind, type) or kind is object:
        return True
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    if issubclass(kind, str | Path):
        return isinstance(value, str)
    if kind in (bool, int, float):
        return _number_fits(value, kind)
    if issubclass(kind, Mapping):
        inner = args[1] if len(args) == 2 else Any
        return isinstance(value, Mapping) and all(fits(v, inner) for v in value.values())
    if issubclass(kind, list | tuple | set | frozenset) or kind.__module__ == "collections.abc":
        inner = args[0] if args else Any
        return isinstance(value, list | tuple) and all(fits(v, inner) for v in value)
    return True


def _number_fits(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int) or (kind is float and isinstance(value, float))


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(target)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    called = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(called)
    except NameError:
        return {}


def _gives(target: Callable[..., Any], method: str) -> bool:
    made = target if inspect.isclass(target) else _hints(target).get("return")
    return callable(getattr(made, method, None))


_SPELLED = {
    str: "a text (quote it)",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def spelled(hint: Any) -> str:
    if hint in _SPELLED:
        return _SPELLED[hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(spelled(arg) for arg in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _import(module_name: str, target: str) -> Any:
    """Import a module; if a part of its path is missing, say which, and what is near."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if not (module_name + ".").startswith(f"{exc.name}."):
            raise ConfigError(f'"{target}" cannot be imported: {exc}') from exc
        parent, _, missing = (exc.name or module_name).rpartition(".")
        hint = nearest(missing, _modules_below(parent)) if parent else ""
        hint = hint or "; is it installed, or its folder in PYTHONPATH?"
        raise ConfigError(f'"{target}": there is no module {exc.name}{hint}') from exc
    except ImportError as exc:
        raise ConfigError(f'"{target}" cannot be imported: {exc}') from exc


def _modules_below(package: str) -> list[str]:
    paths = getattr(importlib.import_module(package), "__path__", [])
    return [module.name for module in pkgutil.iter_modules(paths)]


def plain(plugin: Plugin) -> dict[str, Any]:
    """For people and for the log."""
    return {TARGET: plugin.target, **json.loads(plugin.params)}
