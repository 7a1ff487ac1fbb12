"""Which engine a name in the config means."""

from rollout.config import AUTO, EngineConf
from rollout.errors import ConfigError
from rollout.sandbox.base import Engine, Objects
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine


def make_engine(conf: EngineConf, owner: str, objects: Objects | None = None) -> Engine:
    """The engine `conf` asks for, not started.

    owner: names who answers for its sandboxes.
    objects: where blueprints' objects and shared layers are found.
    """
    if conf.kind == "native":
        return NativeEngine(conf, owner=owner, objects=objects)
    if conf.kind == "memory":
        return MemoryEngine(objects=objects)
    if conf.kind == AUTO:
        raise ConfigError("engine.kind: auto is decided where a run is planned; say which one")
    if conf.kind == "docker":
        from rollout.sandbox.docker.engine import DockerEngine

        return DockerEngine(conf, owner=owner, objects=objects)
    raise ConfigError(f"engine.kind: {conf.kind!r} is none of native, docker, memory")
