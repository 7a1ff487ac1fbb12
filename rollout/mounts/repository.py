"""A repository as a tree: the files of one commit, and a `.git` that ends with it.

What an agent could learn of the time after the commit is not there: no other ref, tag, reflog,
remote, note or stash, no hook, no alternate, and not one object that the commit does not reach.
That is looked at again before it is used.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import ConfigError
from rollout.mounts.git import Git
from rollout.objects.archive import LIMIT_BYTES, LIMIT_ENTRIES
from rollout.sandbox.trees import leaving_links
from rollout.types import Tree, TreeEntry

BRANCH = "refs/heads/main"
CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
LFS = b"version https://git-lfs.github.com/spec/v1\n"
NAMES = 3
"""Shown of a list of files."""
FILE, LINK, FOLDER, SUBMODULE = "100", "120000", "040000", "160000"
GIT_FILES = re.compile(
    r"HEAD|config|index|refs/heads/main|objects/pack/pack-[0-9a-f]{40}\.(pack|idx)"
)
"""All that a scrubbed `.git` holds."""
SNAPSHOT = {
    "GIT_AUTHOR_NAME": "rollout",
    "GIT_AUTHOR_EMAIL": "rollout@localhost",
    "GIT_COMMITTER_NAME": "rollout",
    "GIT_COMMITTER_EMAIL": "rollout@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}
"""Of the one commit that stands for a whole history."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """The files of a commit, as git keeps them: no filter has seen them."""

    tree: Tree
    notes: tuple[str, ...]


def files_of(git: Git, repository: Path, commit: str) -> Checkout:
    """Read without checking anything out. ConfigError for what no tree may hold."""
    listed = git.run(
        "ls-tree", "-r", "-t", "-z", "-l", "--full-tree", commit, repository=repository
    )
    rows = [_row(line) for line in listed.split(b"\0") if line]
    if len(rows) > LIMIT_ENTRIES:
        raise ConfigError(f"the commit has {len(rows)} names; {LIMIT_ENTRIES} are allowed")
    if (size := sum(row.size for row in rows)) > LIMIT_BYTES:
        raise ConfigError(
            f"the commit's files are {size >> 20} MiB; {LIMIT_BYTES >> 20} are allowed"
        )
    contents = _contents(git, repository, [row for row in rows if row.has_content])
    entries = [row.entry(contents.get(row.path, b"")) for row in rows]
    left_out = leaving_links(Tree(tuple(entries)))
    tree = Tree(tuple(entry for entry in entries if entry.path not in left_out))
    return Checkout(tree, tuple(_notes(rows, contents, left_out)))


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of `git ls-tree -l`."""

    mode: str
    oid: str
    size: int
    path: str

    @property
    def has_content(self) -> bool:
        return self.mode == LINK or self.mode.startswith(FILE)

    def entry(self, content: bytes) -> TreeEntry:
        if self.mode == LINK:
            target = content.decode("utf-8", "surrogateescape")
            return TreeEntry(self.path, "link", 0o777, target=target)
        if not self.has_content:
            return TreeEntry(self.path, "dir", 0o755)
        return TreeEntry(self.path, "file", 0o755 if self.mode == "100755" else 0o644, content)


def _row(line: bytes) -> _Row:
    head, _, name = line.partition(b"\t")
    mode, _, oid, size = head.decode().split()
    path = name.decode("utf-8", "surrogateescape")
    # Git itself makes no such names; they would become part of `.git` or lead out of the folder.
    if any(part.casefold() == ".git" for part in path.split("/")):
        raise ConfigError(f"the commit holds {path[:200]!r}, which git refuses as well")
    return _Row(mode, oid, int(size) if size.isdigit() else 0, path)


def _contents(git: Git, repository: Path, rows: list[_Row]) -> dict[str, bytes]:
    asked = "".join(f"{row.oid}\n" for row in rows).encode()
    told = git.run("cat-file", "--batch", repository=repository, stdin=asked)
    found, at = {}, 0
    for row in rows:
        end = told.index(b"\n", at)
        head = told[at:end].split()
        if len(head) != 3 or head[1] != b"blob":
            raise ConfigError(f"the repository lacks the content of {row.path!r}")
        found[row.path] = told[end + 1 : end + 1 + int(head[2])]
        at = end + 2 + int(head[2])
    return found


def _notes(rows: list[_Row], contents: dict[str, bytes], left_out: list[str]) -> list[str]:
    modules = [row.path for row in rows if row.mode == SUBMODULE]
    pointers = [path for path, data in contents.items() if data.startswith(LFS)]
    told = []
    if modules:
        told.append(f"submodules are empty folders: {_some(modules)}; mount them by themselves")
    if pointers:
        told.append(f"Git LFS files are pointers, without their content: {_some(pointers)}")
    if left_out:
        told.append(f"links that lead out of the repository are not there: {_some(left_out)}")
    return told


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


# ---------------------------------------------------------------- its history


def snapshot(git: Git, repository: Path, commit: str) -> str:
    """A commit without parents that has the same files."""
    tree = git.run("rev-parse", f"{commit}^{{tree}}", repository=repository).decode().strip()
    made = git.run("commit-tree", tree, "-m", "Snapshot", repository=repository, env=SNAPSHOT)
    return made.decode().strip()


def scrubbed(git: Git, repository: Path, commit: str, work: Path) -> Tree:
    """A `.git` folder, made from nothing, that holds the commit and what it reaches.

    ConfigError when the history is not all there, and when the scrub did not hold.
    """
    if (repository / "shallow").exists() and _reaches_shallow(git, repository, commit):
        raise ConfigError(
            "the source is itself a shallow clone, so the history is not there; "
            "run `git fetch --unshallow` in it, or write history: none"
        )
    made = work / "scrubbed"
    (made / "objects/pack").mkdir(parents=True)
    (made / "refs/heads").mkdir(parents=True)
    (made / "HEAD").write_text(f"ref: {BRANCH}\n")
    (made / "config").write_text(CONFIG)
    (made / BRANCH).write_text(f"{commit}\n")
    # Nothing of the source's packs is used again, so that the same commit is the same pack.
    git.run(
        *("pack-objects", "--quiet", "--revs", "--threads=1", "--no-reuse-delta"),
        *("--no-reuse-object", "--delta-base-offset", str(made / "objects/pack/pack")),
        repository=repository,
        stdin=f"{commit}\n".encode(),
    )
    git.run("read-tree", commit, repository=made)
    verify(git, made, commit)
    return _read(made)


def _reaches_shallow(git: Git, repository: Path, commit: str) -> bool:
    cut = set((repository / "shallow").read_text().split())
    reached = git.run("rev-list", commit, repository=repository).decode().split()
    return not cut.isdisjoint(reached)


def verify(git: Git, made: Path, commit: str) -> None:
    """ConfigError unless the folder holds that commit, what it reaches, and nothing else."""

    def told(*words: str) -> str:
        return git.run(*words, repository=made).decode(errors="replace")

    strays = [name for name in _names(made) if not GIT_FILES.fullmatch(name)]
    reached = {line[:40] for line in told("rev-list", "--objects", "HEAD").splitlines()}
    every = ("cat-file", "--batch-all-objects", "--batch-check=%(objectname)", "--unordered")
    held = set(told(*every).split())
    unreachable = told(
        "fsck", "--connectivity-only", "--unreachable", "--no-reflogs", "--no-progress"
    )
    refs = told("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    wrong = {
        "files that do not belong there": strays,
        "objects that the commit does not reach": sorted(held - reached),
        "objects that are missing": sorted(reached - held),
        "what fsck found": unreachable.splitlines(),
        "other refs": [] if refs == [f"{BRANCH} {commit}"] else refs,
    }
    for what, found in wrong.items():
        if found:
            raise ConfigError(f"the repository could not be scrubbed: {what}: {_some(found)}")


def _names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def _read(made: Path) -> Tree:
    size = sum((made / name).stat().st_size for name in _names(made))
    if size > LIMIT_BYTES:
        raise ConfigError(
            f"the history is {size >> 20} MiB, {LIMIT_BYTES >> 20} are allowed; write history: none"
        )
    folders = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_dir())
    return Tree(
        (
            TreeEntry(".git", "dir", 0o755),
            *(TreeEntry(f".git/{name}", "dir", 0o755) for name in folders),
            *(_entry(made, name) for name in _names(made)),
        )
    )


def _entry(made: Path, name: str) -> TreeEntry:
    mode = 0o444 if name.startswith("objects/") else 0o644
    return TreeEntry(f".git/{name}", "file", mode, (made / name).read_bytes())
