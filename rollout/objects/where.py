"""Which object store a config means."""

from pathlib import Path

from rollout.config import EngineConf, ObjectsConf, StoreConf
from rollout.dataset.store import open_store
from rollout.errors import ConfigError, StoreError
from rollout.objects.cache import Cache
from rollout.objects.store import ObjectStore
from rollout.sandbox.unprivileged import folder_of_user

BESIDE_RUNS = "_objects"
"""No run has a name like this."""


def settle(conf: ObjectsConf, store: StoreConf) -> ObjectsConf:
    """The same with an absolute URI, for workers elsewhere."""
    if conf.uri is None:
        place = f"{store.uri.rstrip('/')}/{BESIDE_RUNS}"
        endpoint_url, region = store.endpoint_url, store.region
    else:
        place, endpoint_url, region = conf.uri, conf.endpoint_url, conf.region
    if "://" not in place:
        place = str(Path(place).expanduser().resolve())
    return ObjectsConf(uri=place, endpoint_url=endpoint_url, region=region, cache_mb=conf.cache_mb)


def open_objects(
    conf: ObjectsConf, store: StoreConf | None = None, *, root_dir: str = EngineConf.root_dir
) -> ObjectStore:
    """The object store; nothing is touched yet.

    root_dir: the engine's, where copies of objects go that are not in a folder already.
    """
    settled = settle(conf, store or StoreConf())
    assert settled.uri is not None
    try:
        opened = open_store(settled.uri, endpoint_url=settled.endpoint_url, region=settled.region)
    except StoreError as exc:
        raise ConfigError(f"objects.uri: {settled.uri!r}: {exc}") from exc
    folder = folder_of_user(root_dir, EngineConf.root_dir) / "objects"
    return ObjectStore(opened, Cache(folder, settled.cache_mb << 20))
