"""Where a dataset lives: a folder or S3, behind one Protocol."""

from urllib.parse import unquote, urlsplit

from rollout.dataset.store_base import Store, check_path
from rollout.dataset.store_local import LocalStore
from rollout.errors import StoreError

__all__ = ["LocalStore", "Store", "check_path", "open_store"]


def open_store(uri: str, *, endpoint_url: str | None = None, region: str | None = None) -> Store:
    """The store at `uri`: a folder (also `file://`) or `s3://bucket/prefix`. Touches nothing yet.

    `endpoint_url` and `region` are for S3 only; credentials come from the environment as boto3
    finds them. Blocking, like all of the store: callers on an event loop use a thread.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme == "s3":
        # boto3 takes long to import, and only datasets on S3 need it.
        from rollout.dataset.store_s3 import S3Store

        return S3Store(uri, endpoint_url=endpoint_url, region=region)
    if scheme == "file":
        return LocalStore(unquote(urlsplit(uri).path))
    if scheme or not uri:
        raise StoreError(
            f"store.uri is {uri!r}: it must be a folder or s3://bucket/prefix (other services that "
            "speak S3 work with store.endpoint_url)"
        )
    return LocalStore(uri)
