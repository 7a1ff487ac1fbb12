"""A repository at one commit: nothing of the time after it, no token anywhere, one id."""

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rollout.config import ObjectsConf
from rollout.errors import ConfigError
from rollout.mounts import Resolved, resolve
from rollout.mounts.git import Git, source_of
from rollout.mounts.repository import verify
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.types import Tree

SECRET = "gold-answer-of-the-future"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_objects(ObjectsConf(uri=str(tmp_path / "objects")), root_dir=str(tmp_path / "root"))


def git(folder: Path, *words: str, date: str = "2024-01-01T00:00:00Z") -> str:
    who = {"NAME": "A", "EMAIL": "a@b", "DATE": date}
    env = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()}
    own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]}
    command = ["git", "-c", "init.defaultBranch=trunk", "-c", "protocol.file.allow=always", *words]
    done = subprocess.run(
        command, cwd=folder, env={**own, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, then one with the gold answer; a tag, a stash, a note, hooks, loose garbage."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "run.sh").write_text("#!/bin/sh\necho old\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("run.sh")
    commit(folder, "first")
    (folder / "src").mkdir()
    (folder / "src/app.py").write_text("x = 1\n" * 500)
    commit(folder, "second")
    git(folder, "tag", "-a", "v1", "-m", "release")
    (folder / "src/app.py").write_text(f"x = 1\n{SECRET}\n")
    commit(folder, "the fix")
    git(folder, "branch", "solution")
    (folder / "run.sh").write_text(SECRET)
    git(folder, "stash")
    git(folder, "notes", "add", "-m", SECRET, "v1^{commit}")
    (folder / ".git/hooks/post-checkout").write_text("#!/bin/sh\ntouch /tmp/hooked\n")
    return folder


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def mount(source: Path | str, ref: str, **more: Any) -> dict[str, Any]:
    return {"kind": "code", "source": str(source), "ref": ref, "dest": "/app", **more}


def laid_out(objects: ObjectStore, found: Resolved, at: Path) -> Path:
    """The mount's files on disk, as a sandbox would have them."""
    tree: Tree = objects.read_tree(found.launch[0].object_id)
    for entry in sorted(tree.entries, key=lambda entry: entry.path):
        path = at / entry.path
        if entry.kind == "dir":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.kind == "link":
            path.symlink_to(entry.target)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)
            path.chmod(entry.mode)
    return at


# ---------------------------------------------------------------- what is there, and what is not


def test_the_commit_and_its_past_are_there_and_nothing_else(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    wanted = git(repository, "rev-parse", "v1^{commit}")
    found = resolve([mount(repository, "v1")], objects)
    assert found.launch[0].value == wanted
    assert found.notes == (f"code at /app: v1 of {repository} is commit {wanted}",)
    app = laid_out(objects, found, tmp_path / "app")
    assert git(app, "log", "--all", "--format=%s") == "second\nfirst"
    assert git(app, "status", "--porcelain") == ""
    assert git(app, "rev-parse", "HEAD") == wanted
    assert (app / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (app / "link").readlink() == Path("run.sh")
    assert git(app, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert git(app, "fsck", "--unreachable", "--no-reflogs", "--full") == ""
    for nothing in (["remote"], ["stash", "list"], ["notes", "list"], ["tag"], ["reflog"]):
        assert git(app, *nothing) == "", nothing
    everything = git(app, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
    assert set(everything) == {
        line[:40] for line in git(app, "rev-list", "--objects", "HEAD").splitlines()
    }
    assert all(SECRET not in git(app, "cat-file", "-p", oid) for oid in everything)
    assert not (app / ".git/hooks").exists()
    commit(app, "an agent can go on") if (app / "new").write_text("1") else None
    assert git(app, "log", "-1", "--format=%s") == "an agent can go on"


def test_history_none_is_one_commit_with_the_same_files(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    app = laid_out(
        objects, resolve([mount(repository, "v1", history="none")], objects), tmp_path / "a"
    )
    assert git(app, "log", "--all", "--format=%s %an %ad", "--date=short") == (
        "Snapshot rollout 2000-01-01"
    )
    assert git(app, "rev-parse", "HEAD^{tree}") == git(repository, "rev-parse", "v1^{tree}")
    assert git(app, "status", "--porcelain") == ""


def test_one_commit_is_one_object_wherever_it_comes_from(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    first = resolve([mount(repository, "v1")], objects).launch
    git(tmp_path, "clone", "-q", "--bare", str(repository), "other")
    git(tmp_path / "other", "gc", "-q", "--aggressive", "--prune=now")
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "1234:1234", tmp_path / "other"], check=True)
    elsewhere = open_objects(ObjectsConf(uri=str(tmp_path / "o2")), root_dir=str(tmp_path))
    assert resolve([mount(tmp_path / "other", "refs/tags/v1")], elsewhere).launch == first
    assert (
        resolve([mount(repository, git(repository, "rev-parse", "v1^{}"))], objects).launch == first
    )
    before = resolve([mount(repository, "trunk")], objects).launch
    (repository / "more").write_text("more")
    commit(repository, "more")
    assert resolve([mount(repository, "trunk")], objects).launch != before


def test_submodules_lfs_and_links_out_are_said_clearly(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", str(repository), "inner")
    git(repository, "submodule", "--quiet", "add", str(tmp_path / "inner"), "vendor/inner")
    (repository / "model.bin").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    )
    (repository / "passwd").symlink_to("/etc/passwd")
    found = resolve([mount(repository, commit(repository, "odd"))], objects)
    told = "\n".join(found.notes)
    assert "submodules are empty folders: vendor/inner" in told
    assert "Git LFS files are pointers, without their content: model.bin" in told
    assert "links that lead out of the repository are not there: passwd" in told
    app = laid_out(objects, found, tmp_path / "app")
    assert list((app / "vendor/inner").iterdir()) == []
    assert not (app / "passwd").is_symlink()
    assert resolve([mount(repository, "trunk")], objects).notes[1:] == found.notes


def test_nothing_that_a_repository_names_is_run(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    for key in ("uploadpack.packObjectsHook", "core.fsmonitor", "core.sshCommand", "core.editor"):
        git(repository, "config", key, f"touch {ran};")
    git(repository, "config", "filter.evil.smudge", f"touch {ran}; cat")
    git(repository, "config", "alias.fetch", f"!touch {ran}")
    (repository / ".gitattributes").write_text("* filter=evil\n")
    git(repository, "config", "core.fsmonitor", "false")
    commit(repository, "with a filter")
    git(repository, "config", "core.fsmonitor", f"touch {ran};")
    assert resolve([mount(repository, "trunk")], objects).launch
    # One that lacks an object, and says by what command more of it is to be had.
    lacking = git(repository, "rev-parse", "HEAD:src/app.py")
    (repository / ".git/objects" / lacking[:2] / lacking[2:]).unlink()
    for key, value in {
        "remote.more.url": str(tmp_path / "more"),
        "remote.more.promisor": "true",
        "remote.more.uploadpack": f"touch {ran};",
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "more",
    }.items():
        git(repository, "config", key, value)
    with pytest.raises(ConfigError):
        resolve([mount(repository, "trunk", history="none")], objects)
    assert not ran.exists()


@pytest.mark.parametrize("left", ["object", "ref", "reflog", "alternates", "hook"])
def test_a_scrub_that_did_not_hold_is_found(
    objects: ObjectStore, repository: Path, tmp_path: Path, left: str
) -> None:
    app = laid_out(objects, resolve([mount(repository, "v1")], objects), tmp_path / "app")
    made, head = app / ".git", git(app, "rev-parse", "HEAD")
    own = Git(tmp_path, source_of(str(repository)))
    verify(own, made, head)
    if left == "object":
        (tmp_path / "x").write_text("gold")
        git(app, "hash-object", "-w", str(tmp_path / "x"))
    elif left == "ref":
        git(app, "tag", "gold")
    elif left == "reflog":
        (made / "logs").mkdir()
        (made / "logs/HEAD").write_text(f"{'0' * 40} {head} A <a@b> 1 +0000\tgold\n")
    elif left == "alternates":
        (made / "objects/info").mkdir(exist_ok=True)
        (made / "objects/info/alternates").write_text(f"{repository}/.git/objects\n")
    else:
        (made / "hooks").mkdir()
        (made / "hooks/pre-commit").write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match="could not be scrubbed"):
        verify(own, made, head)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ref": "trnk"}, "no branch or tag 'trnk'; did you mean \"trunk\""),
        ({"ref": "0" * 40}, "cannot be had of"),
        ({"ref": "abcdef1"}, "write all 40 digits"),
        ({"ref": "v1~1"}, "must be a branch, a tag"),
        ({"ref": "--upload-pack=x"}, "must be a branch, a tag"),
        ({"source": "ext::sh -c touch% /tmp/x"}, "there is no folder"),
        ({"source": "git://host/x"}, "only paths, https, ssh and file"),
        ({"source": "http://example.com/x"}, "use https"),
        ({"source": "https://me:hunter2@host/x"}, "holds a password"),
        ({"source": "--upload-pack=x"}, "neither a path nor a URL"),
        ({"source": "https://host/x", "token_env": "ROLLOUT_TESTS_UNSET"}, "is not set here"),
        ({"token_env": "ghp_x-y"}, "must be the name of a variable"),
        ({"history": "ful"}, 'did you mean "full"'),
    ],
)
def test_slips_are_one_clear_line(
    objects: ObjectStore, repository: Path, change: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([mount(repository, "trunk") | change], objects)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "ghp_x" not in str(caught.value)


def test_a_shallow_source_has_no_history_to_give(
    objects: ObjectStore, repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", "shallow")
    with pytest.raises(ConfigError):
        resolve([mount(tmp_path / "shallow", "trunk")], objects)
    assert resolve([mount(tmp_path / "shallow", "trunk", history="none")], objects).launch


def test_a_commit_with_a_git_folder_inside_is_refused(
    objects: ObjectStore, repository: Path
) -> None:
    blob = git(repository, "rev-parse", "v1:run.sh")
    inner = with_input(repository, f"100755 blob {blob}\tconfig\n", "mktree")
    outer = with_input(repository, f"040000 tree {inner}\t.GIT\n", "mktree")
    bad = git(repository, "commit-tree", outer, "-m", "bad")
    git(repository, "branch", "bad", bad)
    with pytest.raises(ConfigError, match="which git refuses as well"):
        resolve([mount(repository, "bad")], objects)


def with_input(folder: Path, text: str, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, input=text, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


# ---------------------------------------------------------------- a token


TOKEN = "tok-3d1f-secret"


@contextmanager
def git_server(root: Path) -> Iterator[str]:
    """Git's own server over HTTP that lets in only who has the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            told = self.headers.get("Authorization", "")
            if told != f"Basic {base64.b64encode(f'x-access-token:{TOKEN}'.encode()).decode()}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "x",
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=env, capture_output=True, check=False
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in head.decode().splitlines():
                name, _, value = line.partition(": ")
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_private_repository_by_a_token_that_lands_nowhere(
    objects: ObjectStore, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with git_server(tmp_path) as url:
        private = mount(f"{url}/repository/.git", "v1", token_env="MY_TOKEN")
        found = resolve([private], objects)
        assert found.launch == resolve([mount(repository, "v1")], objects).launch
        monkeypatch.setenv("MY_TOKEN", f"{TOKEN}-wrong")
        with pytest.raises(ConfigError) as caught:
            resolve([private | {"ref": "trunk"}], objects)
    assert "git ls-remote" in str(caught.value)
    told = [repr(found), str(caught.value)]
    stored = [path.read_bytes() for path in Path(objects.uri).rglob("*") if path.is_file()]
    for kept in (*stored, *(text.encode() for text in told)):
        for form in (TOKEN.encode(), base64.b64encode(TOKEN.encode())):
            assert form not in kept
    for entry in objects.read_tree(found.launch[0].object_id).entries:
        assert TOKEN.encode() not in entry.data
