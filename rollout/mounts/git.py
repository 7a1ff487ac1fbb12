"""Git on the machine that makes the plan, on repositories of anybody's.

Nothing of this machine's own git settings is read, no hook or helper of a repository is run, and
nothing is checked out. A token is in the environment of the one process that asks for it: never in
an argument, a URL, a file or an error.
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rollout.checks import nearest
from rollout.errors import ConfigError

TIMEOUT_S = 900.0
FILE_LIMIT_BYTES = 2 << 30
"""Of each file that git writes, packs among them."""
ERROR_BYTES = 8 << 10
TOKEN = "ROLLOUT_GIT_TOKEN"
COMMIT = re.compile(r"[0-9a-f]{40}")
SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:(?!//)\S+")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ASK = f"""\
#!/bin/sh
case "$1" in
Username*) echo x-access-token ;;
*) printenv {TOKEN} ;;
esac
"""
OWN_CONFIG = "[safe]\n\tdirectory = *\n"
"""A repository of somebody else's may be read: nothing that it could name is run."""
KEPT = (
    *("PATH", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables of this process that git gets; all others it does not."""
SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null"),
    *("protocol.ext.allow=never", "gc.auto=0", "maintenance.auto=false"),
    *("pack.writeReverseIndex=false", "pack.threads=1", "core.compression=6", "index.version=2"),
    *("credential.helper=", "http.followRedirects=false", "submodule.recurse=false"),
    *("transfer.bundleURI=false", "fetch.writeCommitGraph=false", "core.multiPackIndex=false"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a repository is, in a form that is good for git and for people."""

    url: str
    token_env: str = ""

    @property
    def protocols(self) -> str:
        loopback = self.url.startswith("http://")
        return "file:https:ssh:http" if loopback else "file:https:ssh"


def source_of(text: str, token_env: str = "") -> Source:
    """ConfigError when git should not be let loose on it."""
    if text.startswith("-") or not text.isprintable():
        raise ConfigError(f"source: {text!r} is neither a path nor a URL")
    parts = urlsplit(text)
    if "://" not in text and not SCP_LIKE.fullmatch(text):
        path = Path(text).expanduser().absolute()
        if not path.is_dir():
            raise ConfigError(f"source: {text!r}: there is no folder {path}")
        text, parts = str(path), urlsplit("file:")
    elif parts.password:
        raise ConfigError(
            f"source: {_without_password(text)} holds a password; put it into a variable and name "
            "that as token_env"
        )
    elif "://" not in text:
        parts = urlsplit("ssh:")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigError(f"source: {text!r}: use https")
    if parts.scheme not in ("file", "https", "ssh", "http"):
        raise ConfigError(f"source: {text!r}: only paths, https, ssh and file are supported")
    if token_env and parts.scheme not in ("https", "http"):
        raise ConfigError(f"token_env: is for https, the source is {text!r}")
    if token_env and not os.environ.get(token_env):
        raise ConfigError(f"token_env: the variable {token_env} is not set here")
    return Source(text, token_env)


def _without_password(url: str) -> str:
    return re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:…@", url)


class Git:
    """Git commands with a home of their own, which is gone with the block that `git` opens."""

    def __init__(self, home: Path, source: Source) -> None:
        self.home = home
        self.source = source
        (home / "config").write_text(OWN_CONFIG)
        ask = home / "ask"
        ask.write_text(ASK)
        ask.chmod(0o700)

    def run(
        self,
        *words: str,
        repository: Path | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        remote: bool = False,
    ) -> bytes:
        """Standard output of one command; ConfigError with what git said when it fails.

        remote: it talks to the source, and may have the token.
        """
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        where = [f"--git-dir={repository}"] if repository else []
        limit = ["sh", "-c", 'ulimit -f "$0" && exec git "$@"', str(FILE_LIMIT_BYTES // 512)]
        environment = {**self._environment(remote), **(env or {})}
        with (
            tempfile.TemporaryFile(dir=self.home) as output,
            tempfile.TemporaryFile(dir=self.home) as errors,
        ):
            command = [*limit, *settings, *where, *words]
            code = _run(command, stdin, output, errors, environment, self.home)
            if code:
                raise ConfigError(f"git {words[0]}: {self._told(code, errors)}")
            output.seek(0)
            return output.read()

    def _environment(self, remote: bool) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        token = os.environ.get(self.source.token_env, "") if self.source.token_env else ""
        return {
            **kept,
            "HOME": str(self.home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.home / "config"),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": self.source.protocols,
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
            **({"GIT_ASKPASS": str(self.home / "ask"), TOKEN: token} if token and remote else {}),
        }

    def _told(self, code: int, errors: IO[bytes]) -> str:
        """The last of what it said, without the token."""
        if code < 0:
            return f"ended by signal {-code}"
        errors.seek(-min(errors.seek(0, os.SEEK_END), ERROR_BYTES), os.SEEK_END)
        said = errors.read().decode(errors="replace").strip()
        token = os.environ.get(self.source.token_env, "") if self.source.token_env else ""
        said = said.replace(token, "…") if token else said
        lines = [line for line in _without_password(said).splitlines() if line.strip()]
        return " / ".join(lines[-5:])[-800:] or f"exit code {code}"


def _run(
    command: Sequence[str],
    stdin: bytes,
    output: IO[bytes],
    errors: IO[bytes],
    env: Mapping[str, str],
    cwd: Path,
) -> int:
    """The exit code. What it started ends with it, also where it takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise ConfigError(f"git is needed on this machine: {exc}") from exc
    try:
        process.communicate(stdin, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[-1]}: git took longer than {TIMEOUT_S:g} s") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode


@contextmanager
def git(source: Source) -> Iterator[Git]:
    with tempfile.TemporaryDirectory(prefix="rollout-git-") as home:
        yield Git(Path(home), source)


# ---------------------------------------------------------------- from a ref to a commit


def commit_of(git: Git, ref: str) -> str:
    """The commit that a branch, a tag or all 40 digits of a commit mean now."""
    if COMMIT.fullmatch(ref):
        return ref
    if re.fullmatch(r"[0-9a-f]{7,39}", ref):
        raise ConfigError(f"ref: {ref!r}: write all 40 digits of a commit")
    if ref.startswith("-") or not re.fullmatch(r"[^\s~^:?*\[\\]+", ref):
        raise ConfigError(f"ref: {ref!r} must be a branch, a tag, or 40 digits of a commit")
    told = git.run("ls-remote", "--", git.source.url, remote=True).decode(errors="replace")
    pairs = [line.partition("\t") for line in told.splitlines()]
    heads = {name: oid for oid, _, name in pairs}
    found = {
        name: heads.get(f"{name}^{{}}", heads[name])
        for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}")
        if name in heads and (name.startswith("refs/") or name == "HEAD")
    }
    if len(set(found.values())) > 1:
        raise ConfigError(f"ref: {ref!r} is a branch and a tag; write {' or '.join(found)}")
    if not found:
        known = [name.split("/", 2)[-1] for name in heads if not name.endswith("^{}")]
        raise ConfigError(
            f"ref: {git.source.url} has no branch or tag {ref!r}{nearest(ref, known)}"
        )
    commit = next(iter(found.values()))
    if not COMMIT.fullmatch(commit):
        raise ConfigError(
            f"ref: {ref!r} is {commit!r}; repositories with SHA-1 names are supported"
        )
    return commit


def fetch(git: Git, commit: str, target: Path, *, shallow: bool) -> None:
    """A bare repository that holds the commit, with all before it or `shallow` without."""
    git.run("init", "--quiet", "--bare", "--template=", str(target))
    depth = ["--depth=1"] if shallow else []
    common = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
    try:
        wanted: Sequence[str] = [git.source.url, commit]
        git.run(*common, *depth, "--", *wanted, repository=target, remote=True)
    except ConfigError as one:
        # Not every server gives a commit that no ref names.
        every = [git.source.url, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"]
        try:
            git.run(*common, "--", *every, repository=target, remote=True)
            git.run("cat-file", "-e", f"{commit}^{{commit}}", repository=target)
        except ConfigError:
            raise ConfigError(f"ref: {commit} cannot be had of {git.source.url}: {one}") from None
    kind = git.run("cat-file", "-t", commit, repository=target).strip()
    if kind != b"commit":
        raise ConfigError(f"ref: {commit} is a {kind.decode()}, no commit")
