"""Sandboxes: `base.py` is the contract, one module or folder for each engine.

The package can also be called: `rollout.sandbox("host")` is `rollout.library.sandbox`, whose name
this package would otherwise take away as soon as anything of it is imported.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> AbstractAsyncContextManager[Any]:
        opened: AbstractAsyncContextManager[Any] = import_module("rollout.library").sandbox(
            *args, **settings
        )
        return opened

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _CallablePackage
