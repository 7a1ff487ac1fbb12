"""One contract for every store, and what a store that cannot hold a dataset is told."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rollout.dataset.store import LocalStore, Store, open_store
from rollout.errors import StoreError


def test_the_first_put_stays(store: Store) -> None:
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.get("a/b.json") == b"first"


def test_files_go_in_and_come_out_like_bytes(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "source").write_bytes(content)
    assert store.put_file_if_absent("a/file", tmp_path / "source")
    (tmp_path / "source").write_bytes(b"other")
    assert not store.put_file_if_absent("a/file", tmp_path / "source")
    assert store.get("a/file") == content
    with (tmp_path / "target").open("wb") as target:
        store.get_file("a/file", target)
        with pytest.raises(FileNotFoundError):
            store.get_file("a/nothing", target)
    assert (tmp_path / "target").read_bytes() == content
    with pytest.raises(StoreError, match="no name for an object"):
        store.put_file_if_absent("../x", tmp_path / "source")


def test_sixteen_puts_at_once_have_one_winner(store: Store) -> None:
    barrier = threading.Barrier(16)

    def put(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent("_log/1.json", b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(put, range(16)))
    assert won.count(True) == 1
    assert store.get("_log/1.json") == b"%d" % won.index(True)


def test_what_is_not_there_is_file_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("nothing/here")
    store.delete("nothing/here")


def test_delete_frees_the_name(store: Store) -> None:
    store.put_if_absent("a", b"1")
    store.delete("a")
    assert store.put_if_absent("a", b"2")
    assert store.get("a") == b"2"


def test_list_is_by_prefix_in_order_and_resumes(store: Store) -> None:
    for path in ("_log/2", "_log/10", "_logs", "trajectories/writer=w1/x", "trajectories/y", "run"):
        store.put_if_absent(path, b"")
    assert store.list("_log/") == ["_log/10", "_log/2"]
    assert store.list("_log/", after="_log/10") == ["_log/2"]
    assert store.list("_log") == ["_log/10", "_log/2", "_logs"]
    assert store.list("trajectories/") == ["trajectories/writer=w1/x", "trajectories/y"]
    assert store.list("ru") == ["run"]
    assert store.list("nothing/") == []


@pytest.mark.s3
def test_more_objects_than_one_page_of_a_listing(s3_store: Store) -> None:
    names = [f"n/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3_store.put_if_absent(name, b""), names))
    assert s3_store.list("n/") == names


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", "a" * 300],
)
def test_a_name_that_could_leave_the_root_is_refused(store: Store, path: str) -> None:
    for use in (lambda: store.put_if_absent(path, b""), lambda: store.get(path)):
        with pytest.raises(StoreError, match="no name for an object"):
            use()
    with pytest.raises(StoreError, match="no name for an object"):
        store.delete(path)


def test_probe_leaves_nothing(store: Store) -> None:
    store.probe()
    assert store.list("") == []


# ---------------------------------------------------------------- local folders


def test_a_put_leaves_no_temporary_file(local_store: LocalStore) -> None:
    local_store.put_if_absent("a/b", b"1")
    local_store.put_if_absent("a/b", b"2")
    assert local_store.list("") == ["a/b"]


def test_probe_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"not a folder; set store\.uri"):
            open_store(str(uri)).probe()


def test_probe_of_a_place_where_no_folder_can_be_made() -> None:
    with pytest.raises(StoreError, match=r"/proc/rollout-nowhere.*store\.uri"):
        open_store("/proc/rollout-nowhere/run").probe()


def test_file_uris_and_unknown_schemes(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    for uri in ("gs://bucket/x", ""):
        with pytest.raises(StoreError, match=r"store\.uri is .*folder or s3://"):
            open_store(uri)


# ---------------------------------------------------------------- S3


@pytest.mark.s3
def test_probe_of_a_missing_bucket(s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket/run", endpoint_url=s3_endpoint)
    with pytest.raises(StoreError, match="make the bucket 'no-such-bucket' first"):
        store.probe()
    store.close()


def test_a_bucket_needs_a_name() -> None:
    with pytest.raises(StoreError, match="names no bucket"):
        open_store("s3:///run")
    with pytest.raises(StoreError, match=r"store\.endpoint_url"):
        open_store("s3://bucket/run", endpoint_url="not a url")


def test_probe_of_an_endpoint_where_nothing_answers(credentials: None) -> None:
    store = open_store("s3://bucket/run", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"nothing answers there; check store\.endpoint_url"):
        store.probe()
    store.close()


def test_probe_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    store = open_store("s3://bucket/run", endpoint_url="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID"):
        store.probe()
    store.close()


def test_a_store_that_ignores_the_condition_is_refused(credentials: None) -> None:
    kept: dict[str, bytes] = {}

    def careless(handler: "Answers") -> None:
        if handler.command == "PUT":
            kept[handler.path] = handler.body()
            handler.answer(200)
        elif handler.command == "DELETE":
            kept.pop(handler.path, None)
            handler.answer(204)
        else:
            handler.answer(200, kept[handler.path])

    with served(careless) as store, pytest.raises(StoreError, match="ignores `If-None-Match"):
        store.probe()
    assert kept == {}


def test_a_conflict_is_asked_again(credentials: None) -> None:
    seen: list[str | None] = []

    def busy(handler: "Answers") -> None:
        handler.body()
        seen.append(handler.headers.get("If-None-Match"))
        conflict = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
        handler.answer(200) if len(seen) == 3 else handler.answer(409, conflict)

    with served(busy) as store:
        assert store.put_if_absent("a", b"x")
    assert seen == ["*", "*", "*"]


def test_a_lost_reply_answers_like_somebody_elses_object(credentials: None) -> None:
    kept: dict[str, bytes] = {}

    def forgetful(handler: "Answers") -> None:
        if handler.command == "GET":
            handler.answer(200, kept[handler.path])
        elif handler.path in kept:
            handler.body()
            handler.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            kept[handler.path] = handler.body()
            handler.answer(503)

    with served(forgetful) as store:
        assert not store.put_if_absent("a", b"x")
        assert store.get("a") == b"x"


class Answers(BaseHTTPRequestHandler):
    """An S3 endpoint that says what a test wants."""

    protocol_version = "HTTP/1.1"
    answer_with: Callable[["Answers"], None]

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        type(self).answer_with(self)

    do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(answer_with: Callable[[Answers], None]) -> Iterator[Store]:
    handler = type("Handler", (Answers,), {"answer_with": staticmethod(answer_with)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    store = open_store("s3://bucket/run", endpoint_url=f"http://127.0.0.1:{server.server_port}")
    try:
        yield store
    finally:
        store.close()
        server.shutdown()
        thread.join()
        server.server_close()
