"""Which engine a name in the config means."""

from rollout.config import EngineConf
from rollout.errors import ConfigError
from rollout.sandbox.base import Engine
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine


def make_engine(conf: EngineConf, owner: str) -> Engine:
    """The engine `conf` asks for, not started; `owner` names who answers for its sandboxes."""
    if conf.kind == "native":
        return NativeEngine(conf, owner=owner)
    if conf.kind == "memory":
        return MemoryEngine()
    raise ConfigError(f"engine.kind: {conf.kind!r} is none of native, memory")
