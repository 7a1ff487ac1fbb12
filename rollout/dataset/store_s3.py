"""A dataset below `s3://bucket/prefix`, on AWS or at any `endpoint_url`. Only this file has boto3.

Put-if-absent is `If-None-Match: *`: 412 means something was there, 409 that another put of the
same name was under way, so the question is asked again. boto3 itself repeats a put whose reply was
lost; that put then answers 412 for one's own object, which callers find out by content.
"""

import io
import random
import time
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from rollout.dataset.store_base import check_path, probe
from rollout.errors import StoreError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
TRIES = 4
"""Of one call, first included; botocore backs off in between."""
CONFLICT_TRIES = 8
CONNECTIONS = 32
READ_BYTES = 1 << 20


class S3Store:
    """A Store in a bucket that honours conditional puts."""

    def __init__(
        self, uri: str, *, endpoint_url: str | None = None, region: str | None = None
    ) -> None:
        parts = urlsplit(uri)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.endpoint = endpoint_url or "AWS"
        if not self.bucket:
            raise StoreError(f"{uri!r} names no bucket; write store.uri as s3://bucket/prefix")
        try:
            self._client = boto3.session.Session().client(
                "s3", endpoint_url=endpoint_url, region_name=region, config=_config(endpoint_url)
            )
        except (BotoCoreError, ValueError) as exc:
            raise StoreError(
                f"cannot use {self.uri} at {self.endpoint}: {exc}: check store.endpoint_url, "
                "store.region and the AWS profile"
            ) from exc

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self._put(path, data)

    def put_file_if_absent(self, path: str, source: Path) -> bool:
        with source.open("rb") as file:
            return self._put(path, file)

    def _put(self, path: str, body: bytes | BinaryIO) -> bool:
        key = self._key(path)
        for attempt in range(CONFLICT_TRIES):
            if not isinstance(body, bytes):
                body.seek(0)
            try:
                self._client.put_object(Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*")
            except (ClientError, BotoCoreError) as exc:
                if _status(exc) == 412:
                    return False
                if _status(exc) != 409:
                    raise self._explained(exc, f"write {path}") from exc
                time.sleep(random.uniform(0.5, 1.0) * min(2.0, 0.05 * 2**attempt))
            else:
                return True
        raise StoreError(
            f"cannot write {path} in {self.uri}: {CONFLICT_TRIES} times in a row another write of "
            "the same name was under way (409); is a second coordinator stuck in a loop?"
        )

    def get(self, path: str) -> bytes:
        read = io.BytesIO()
        self.get_file(path, read)
        return read.getvalue()

    def get_file(self, path: str, target: BinaryIO) -> None:
        key, start = self._key(path), target.tell()
        for attempt in range(TRIES):
            try:
                body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
                target.seek(start)
                target.truncate()
                for piece in body.iter_chunks(READ_BYTES):
                    target.write(piece)
                return
            except ClientError as exc:
                if _code(exc) in ("NoSuchKey", "404"):
                    raise FileNotFoundError(f"{self.uri}/{path}") from exc
                raise self._explained(exc, f"read {path}") from exc
            except BotoCoreError as exc:
                # The body is read after botocore's own retries are over.
                if attempt == TRIES - 1 or not _broken_off(exc):
                    raise self._explained(exc, f"read {path}") from exc
        raise AssertionError("unreachable: the last try returns or raises")

    def list(self, prefix: str, after: str = "") -> list[str]:
        root = f"{self.prefix}/" if self.prefix else ""
        asked: dict[str, Any] = {"Bucket": self.bucket, "Prefix": root + prefix}
        if after:
            asked["StartAfter"] = root + after
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(**asked)
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        except (ClientError, BotoCoreError) as exc:
            raise self._explained(exc, f"list {prefix}") from exc
        return [key.removeprefix(root) for key in keys]

    def delete(self, path: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._key(path))
        except (ClientError, BotoCoreError) as exc:
            raise self._explained(exc, f"delete {path}") from exc

    def probe(self) -> None:
        probe(self)

    def close(self) -> None:
        self._client.close()

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r}, endpoint_url={self.endpoint!r})"

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{check_path(path)}" if self.prefix else check_path(path)

    def _explained(self, exc: Exception, doing: str) -> StoreError:
        where = f"cannot {doing} in {self.uri} at {self.endpoint}"
        return StoreError(f"{where}: {exc}: {_advice(exc, self.bucket)}")


def _config(endpoint_url: str | None) -> Config:
    other: dict[str, Any] = {}
    if endpoint_url:
        # Stores other than AWS often know neither host-style buckets nor the newer checksums.
        other = {
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        **other,
    )


def _advice(exc: Exception, bucket: str) -> str:
    code = _code(exc)
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give a role"
    if isinstance(exc, botocore.exceptions.ConnectionError | HTTPClientError):
        return "nothing answers there; check store.endpoint_url and the network"
    if code == "NoSuchBucket":
        return f"make the bucket {bucket!r} first, or change store.uri"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return "the bucket is in another region; set store.region"
    if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"):
        return (
            "check the credentials; they need s3:PutObject, s3:GetObject, s3:DeleteObject and "
            f"s3:ListBucket on {bucket!r}"
        )
    if code in ("NotImplemented", "501"):
        return "this store has no conditional writes; use one that has, or a local folder"
    return "check store.uri, store.endpoint_url and the store's own log"


def _status(exc: Exception) -> int:
    if not isinstance(exc, ClientError):
        return 0
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(exc: Exception) -> str:
    return exc.response.get("Error", {}).get("Code", "") if isinstance(exc, ClientError) else ""


def _broken_off(exc: BotoCoreError) -> bool:
    return not isinstance(
        exc, NoCredentialsError | PartialCredentialsError | EndpointConnectionError
    )
