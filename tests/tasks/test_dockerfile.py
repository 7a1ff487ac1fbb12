"""Dockerfiles as Docker reads them: as steps, or whole for a daemon."""

import io
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rollout.sandbox.steps import Setting
from rollout.tasks.dockerfile import Recipe, read_dockerfile
from rollout.tasks.problems import Problems
from rollout.tasks.trees import Budget
from rollout.types import BuildStep, Secret, Tree
from tests.tasks.folders import write

FILES = {
    "a.txt": "a",
    "b.txt": "b",
    "src/main.py": "main",
    "src/deep/x.py": "x",
    "src/.hidden": "h",
    "my file": "blank",
}


def read(
    context: Path,
    text: str,
    limit_bytes: int = 1 << 20,
    images: Mapping[str, str] | None = None,
    **more: Any,
) -> tuple[Recipe | None, list[str]]:
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(text)
    problems = Problems()
    recipe = read_dockerfile(
        context / "Dockerfile",
        context=context,
        field="Dockerfile",
        images=images or {"base": "host"},
        budget=Budget(limit_bytes),
        problems=problems,
        **more,
    )
    assert (recipe is None) == bool(problems)
    return recipe, problems.lines


@pytest.fixture
def context(tmp_path: Path) -> Path:
    write(tmp_path, FILES)
    return tmp_path


def steps(context: Path, text: str) -> list[BuildStep]:
    recipe, problems = read(context, "FROM base\n" + text)
    assert recipe is not None, problems
    return list(recipe.steps)


def laid(context: Path, text: str) -> dict[str, str]:
    """Absolute path to content, as the steps of `text` would leave it."""
    found: dict[str, str] = {}
    for step in steps(context, text):
        for path, data in (step.tree or Tree()).files().items():
            found[f"{step.dest.rstrip('/')}/{path}"] = data.decode()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a file becomes the destination, unless that is a folder
        ("COPY a.txt /x/y", {"/x/y": "a"}),
        ("COPY a.txt /x/y/", {"/x/y/a.txt": "a"}),
        ("COPY a.txt /", {"/a.txt": "a"}),
        ("COPY a.txt /tmp", {"/tmp/a.txt": "a"}),
        ("WORKDIR /app\nCOPY a.txt /app", {"/app/a.txt": "a"}),
        ("WORKDIR /app/in\nCOPY a.txt /app", {"/app/a.txt": "a"}),
        ("COPY src /code\nCOPY a.txt /code/deep", ...),
        # relative to the working folder
        ("COPY a.txt .", {"/a.txt": "a"}),
        ("WORKDIR /app\nCOPY a.txt .", {"/app/a.txt": "a"}),
        ("WORKDIR /app\nCOPY a.txt new.txt", {"/app/new.txt": "a"}),
        ("WORKDIR /app\nWORKDIR sub\nCOPY a.txt ./", {"/app/sub/a.txt": "a"}),
        ("WORKDIR /app/sub\nCOPY a.txt ..", {"/app/a.txt": "a"}),
        # a folder means what is in it
        ("COPY src /x", {"/x/main.py": "main", "/x/deep/x.py": "x", "/x/.hidden": "h"}),
        ("COPY src/ /x/", {"/x/main.py": "main", "/x/deep/x.py": "x", "/x/.hidden": "h"}),
        ("COPY src/deep /x", {"/x/x.py": "x"}),
        # several, globs, leading slash
        ("COPY a.txt b.txt /x/", {"/x/a.txt": "a", "/x/b.txt": "b"}),
        ("COPY *.txt /x/", {"/x/a.txt": "a", "/x/b.txt": "b"}),
        ("COPY [ab].txt /x/", {"/x/a.txt": "a", "/x/b.txt": "b"}),
        ("COPY [^b].txt /x/", {"/x/a.txt": "a"}),
        ("COPY ?.txt /x/", {"/x/a.txt": "a", "/x/b.txt": "b"}),
        ("COPY src/*/x.py /x/", {"/x/x.py": "x"}),
        ("COPY src/*.py /one", {"/one": "main"}),
        ("COPY /a.txt /x/", {"/x/a.txt": "a"}),
        ("COPY src/deep a.txt /x/", {"/x/x.py": "x", "/x/a.txt": "a"}),
        # JSON form, continued lines, comments inside, small letters
        ('COPY ["my file", "/x/"]', {"/x/my file": "blank"}),
        ("COPY a.txt \\\n  # why\n  b.txt \\\n  /x/", {"/x/a.txt": "a", "/x/b.txt": "b"}),
        ("copy a.txt /x/", {"/x/a.txt": "a"}),
        # variables
        ("ENV D=/data\nCOPY a.txt $D/", {"/data/a.txt": "a"}),
        ("ARG N=b\nCOPY ${N}.txt ${OUT:-/out}/", {"/out/b.txt": "b"}),
        ("ARG D=/one\nENV D=/two\nCOPY a.txt $D/", {"/two/a.txt": "a"}),
        # flags without effect here
        ("COPY --link a.txt /x/", {"/x/a.txt": "a"}),
        ("ADD a.txt /x/", {"/x/a.txt": "a"}),
    ],
)
def test_where_files_go(context: Path, text: str, expected: object) -> None:
    found = laid(context, text)
    if expected is ...:
        assert found["/code/deep/a.txt"] == "a"
    else:
        assert found == expected


def test_owner_and_mode(context: Path) -> None:
    (context / "run.sh").write_text("#!/bin/sh\n")
    (context / "run.sh").chmod(0o775)
    plain, owned, numbered = steps(
        context,
        "COPY run.sh a.txt /x/\nCOPY --chown=app:users --chmod=600 src /y\n"
        "ARG UID=1000\nCOPY --chown=$UID a.txt /z/\n",
    )
    assert {e.path: e.mode for e in (plain.tree or Tree()).entries} == {
        "run.sh": 0o755,
        "a.txt": 0o644,
    }
    assert (plain.owner, owned.owner, numbered.owner) == ("", "app:users", "1000")
    assert {entry.mode for entry in (owned.tree or Tree()).entries} == {0o600}


def test_settings(context: Path) -> None:
    text = (
        "ARG WHO=app\n"
        'ENV A=1 B="two words" C=three\\ words\n'
        "ENV OLD the rest of $A\n"
        "ENV A=2 D=$A\n"
        "WORKDIR /srv\nWORKDIR ${WHO}\nUSER $WHO\nWORKDIR logs\n"
    )
    assert [(s.op, s.key or s.dest, s.value or s.owner) for s in steps(context, text)] == [
        ("env", "A", "1"),
        ("env", "B", "two words"),
        ("env", "C", "three words"),
        ("env", "OLD", "the rest of 1"),
        ("env", "A", "2"),
        ("env", "D", "1"),
        ("workdir", "/srv", ""),
        ("workdir", "/srv/app", ""),
        ("user", "", "app"),
        ("workdir", "/srv/app/logs", "app"),
    ]


def test_what_has_no_effect_here_is_passed_over(context: Path) -> None:
    text = (
        'LABEL a=b\nEXPOSE 80\nMAINTAINER me\nSTOPSIGNAL 9\nCMD ["x"]\n'
        'SHELL ["bash"]\nHEALTHCHECK NONE\nENTRYPOINT ["x"]\n'
    )
    assert steps(context, text) == []


def test_volume_makes_its_folder(context: Path) -> None:
    assert [step.dest for step in steps(context, 'VOLUME ["/data"]\nVOLUME /a /b\n')] == [
        "/data",
        "/a",
        "/b",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "FROM base",
        "from base AS only",
        "ARG TAG=base\nFROM $TAG",
        "ARG TAG\nFROM ${TAG:-base}",
        "# syntax=docker/dockerfile:1\nFROM docker.io/library/base:latest",
        f"FROM --platform=linux/{ {'x86_64': 'amd64'}.get(platform.machine(), 'arm64') } base",
    ],
)
def test_from(context: Path, text: str) -> None:
    recipe, problems = read(context, text)
    assert problems == []
    assert recipe == Recipe("host", ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RUN --mount=type=secret", "Dockerfile:2: RUN --mount=type=secret: a secret needs an id"),
        ("RUN --mount=type=secret,id=a,flag=1 b", "use id, target, env and required"),
        ("RUN --mount=type=secret,id=a", "Dockerfile:2: RUN without a command"),
        (f"RUN echo {'x' * 140_000}", "Dockerfile:2: RUN with more than 131071 bytes"),
        ("RUN <<EOF\nno end", "the heredoc <<EOF of line 2 has no end"),
        ("SHELL bash -c", "Dockerfile:2: SHELL 'bash -c' is not of the form"),
        ("COPPY a.txt /x", "Dockerfile:2: unknown instruction COPPY; did you mean 'COPY'"),
        ("COPY --chmod=u+x a.txt /y", "Dockerfile:2: --chmod=u+x: use three octal"),
        ("COPY ../a.txt /x", "the source '../a.txt' is outside of the build context"),
        ("COPY src/../../a.txt /x", "is outside of the build context"),
        ("COPY nothing /x", "the source 'nothing' is not in the build context"),
        ("COPY *.nothing /x/", "the source '*.nothing' is not in the build context"),
        ("COPY a.txt b.txt /x", "with more than one, the destination must end with /"),
        ("COPY a.txt", "needs a source and a destination"),
        ("USER :users", "use a user's name or number"),
        ("ENV A", "'A' sets 'A' to nothing"),
        ("ENV A=1 B", "'B' has no `=`"),
        ("ENV A=${B%x}", "the form ${B%…} is not understood"),
        ("ENV A=${B:?must}", "the variable B must be set: must"),
        ("WORKDIR $NOTHING", "comes to nothing"),
        ("COPY a.txt \\", "Dockerfile:2: 'COPY a.txt \\\\' is no whole instruction"),
        ("STOPSIGNAL", "Dockerfile:2: 'STOPSIGNAL' is no whole instruction"),
    ],
)
def test_what_cannot_be_done_is_refused_by_line(context: Path, text: str, said: str) -> None:
    _, problems = read(context, "FROM base\n" + text)
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no FROM"),
        ("COPY a b", "Dockerfile:1: COPY stands before FROM"),
        ("FROM debian:13", "no base is known for the image 'debian:13'"),
        ("FROM --platform=linux/s390x base", "this machine is linux/"),
        ("FROM base AS", "is not `FROM image`"),
    ],
)
def test_from_that_cannot_be_used(context: Path, text: str, said: str) -> None:
    _, problems = read(context, text)
    assert said in problems[0]


def test_every_bad_line_is_told(context: Path) -> None:
    _, problems = read(context, "FROM base\nWHAT a\nCOPY nothing /x\nENV A=1\nWHAT b\n")
    assert [line.split(": ")[0] for line in problems] == [f"Dockerfile:{at}" for at in (2, 3, 5)]


# ---------------------------------------------------------------- RUN


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("RUN a  b && \\\n  # why\n  c", ["/bin/sh", "-c", "a  b &&   c"]),
        ('RUN ["a", "$b"]', ["a", "$b"]),
        ("RUN [ -f /x ]", ["/bin/sh", "-c", "[ -f /x ]"]),
        ('SHELL ["bash", "-ec"]\nRUN a $B', ["bash", "-ec", "a $B"]),
        ("RUN --network=default a", ["/bin/sh", "-c", "a"]),
        ("RUN <<EOF\na\n  # b\n\nCOPY c d\nEOF", ["/bin/sh", "-c", "a\n  # b\n\nCOPY c d\n"]),
        ("RUN <<-'E.F'\n\ta\n\tE.F", ["/bin/sh", "-c", "a\n"]),
        ("RUN cat <<A > /x; b <<B\n1\nA\n2\nB\nVOLUME /v",
         ["/bin/sh", "-c", "cat <<A > /x; b <<B\n1\nA\n2\nB\n"]),
        ("RUN cat <<< here; echo $((1<<3))", ["/bin/sh", "-c", "cat <<< here; echo $((1<<3))"]),
    ],
)  # fmt: skip
def test_run(context: Path, text: str, argv: list[str]) -> None:
    (step,) = [step for step in steps(context, text) if step.op == "run"]
    assert list(step.argv) == argv


def test_a_heredoc_that_is_a_program_is_run_as_one(context: Path) -> None:
    (step,) = steps(context, "RUN <<EOF\n#!/usr/bin/env python3\nprint('it is', 6 * 7)\nEOF")
    done = subprocess.run(step.argv, capture_output=True, text=True, check=True)
    assert done.stdout == "it is 42\n"


def test_run_gets_arguments_and_no_environment_twice(context: Path) -> None:
    text = "ARG A=1\nARG B=2\nARG C\nENV B=3\nRUN x\nARG D=$A\nRUN y"
    runs = [step.env for step in steps(context, text) if step.op == "run"]
    assert runs == [(("A", "1"),), (("A", "1"), ("D", "1"))]
    recipe, _ = read(context, f"FROM base\n{text}", args={"A": "given", "C": "c", "E": "unused"})
    assert recipe is not None
    assert recipe.steps[-1].env == (("A", "given"), ("C", "c"), ("D", "given"))


def test_run_with_secrets(context: Path) -> None:
    text = (
        "ARG ID=pip\n"
        "RUN --mount=type=secret,id=npm,required \\\n"
        " --mount=type=secret,id=$ID,target=/etc/pip.conf x\n"
        "RUN --mount=type=secret,id=key,env=KEY,required=false x"
    )
    assert [step.secrets for step in steps(context, text)] == [
        (Secret(id="npm", required=True), Secret(id="pip", target="/etc/pip.conf")),
        (Secret(id="key", env="KEY"),),
    ]


def test_files_of_heredocs(context: Path) -> None:
    text = (
        'ENV WHO=me\nCOPY <<EOF /x\nI am "$WHO", \\$WHO ${WHO:-x}\nEOF\n'
        "COPY a.txt <<'one.sh' <<-two /y/\n$WHO\none.sh\n\ttab\n\ttwo\n"
    )
    assert laid(context, text) == {
        "/x": 'I am "me", $WHO me\n',
        "/y/a.txt": "a",
        "/y/one.sh": "$WHO\n",
        "/y/two": "tab\n",
    }


def test_env_and_folders_go_on_from_those_of_the_base(context: Path) -> None:
    def setting_of(base: str) -> Setting:
        assert base == "oci:/x"
        return Setting(env=(("PATH", "/opt/bin"), ("V", "1")), workdir="/srv", user="app")

    text = "FROM base\nARG V=2\nENV PATH=$PATH:/new W=$V\nWORKDIR here\nRUN x"
    recipe, _ = read(context, text, images={"base": "oci:/x"}, setting_of=setting_of)
    assert recipe is not None
    assert [(s.key or s.dest, s.value or s.owner) for s in recipe.steps[:-1]] == [
        ("PATH", "/opt/bin:/new"),
        ("W", "1"),
        ("/srv/here", "app"),
    ]
    assert recipe.steps[-1].env == ()
    (usual,) = steps(context, "ENV PATH=/new:$PATH")
    assert usual.value.startswith("/new:/usr/local/sbin:/usr/local/bin:")


# ---------------------------------------------------------------- for a daemon


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("FROM base AS two\nCOPY --from=0 /x /y", "Dockerfile:3: a second FROM"),
        ("COPY --from=build /x /y", "Dockerfile:3: COPY --from"),
        ("COPY --parents a.txt /y", "Dockerfile:3: COPY --parents"),
        ("ADD https://x.example/f /y", "Dockerfile:3: ADD of 'https://x.example/f'"),
        ("ADD git@x.example:a/b.git /y", "Dockerfile:3: ADD of 'git@x.example:a/b.git'"),
        ("ONBUILD COPY a b", "Dockerfile:3: ONBUILD"),
        ("ARG TARGETARCH", "Dockerfile:3: ARG TARGETARCH, which BuildKit sets"),
        ("RUN --mount=type=cache,target=/c x", "Dockerfile:3: RUN --mount=type=cache"),
        ("RUN --mount=type=secret,id=a,uid=5 x", "RUN --mount=type=secret with uid"),
        ("RUN --network=none x", "Dockerfile:3: RUN --network=none"),
    ],
)
def test_what_steps_cannot_say_is_left_to_a_daemon(context: Path, text: str, needs: str) -> None:
    (context / ".dockerignore").write_text("src\n")
    whole = f"ARG X\nFROM base AS one\n{text}\n"
    recipe, problems = read(
        context, whole, images={"base": "image:mine/base:1"}, args={"X": "1"}, target="one"
    )
    assert recipe is not None, problems
    assert recipe.dockerfile is not None
    assert needs in recipe.dockerfile.needs
    assert recipe.dockerfile.text == whole.replace("FROM base", "FROM mine/base:1")
    assert {"a.txt", "Dockerfile"} <= set(recipe.dockerfile.context.files())
    assert "src/main.py" not in recipe.dockerfile.context.files()
    assert (recipe.dockerfile.args, recipe.dockerfile.target) == ((("X", "1"),), "one")


def test_a_daemon_may_have_images_that_the_map_has_not(context: Path) -> None:
    recipe, problems = read(context, "FROM golang AS a\nFROM debian:13\nCOPY --from=a /x /y\n")
    assert recipe is not None, problems
    assert recipe.dockerfile is not None
    assert "FROM golang AS a\n" in recipe.dockerfile.text


def test_a_stage_that_is_not_there(context: Path) -> None:
    _, problems = read(context, "FROM base AS build\n", target="biuld")
    assert problems == ["Dockerfile: has no stage 'biuld'; did you mean 'build'?"]


class TestIgnore:
    @pytest.mark.parametrize(
        ("ignore", "expected"),
        [
            ("*.txt", {"src/main.py", "src/deep/x.py", "src/.hidden", "my file"}),
            ("src", {"a.txt", "b.txt", "my file"}),
            ("/src/\n!src/deep", {"a.txt", "b.txt", "my file", "src/deep/x.py"}),
            ("**/*.py\n# *.txt\n", {"a.txt", "b.txt", "my file", "src/.hidden"}),
            ("*\n!a.txt", {"a.txt"}),
            ("**/deep\nsrc/.h?dden\nmy*", {"a.txt", "b.txt", "src/main.py"}),
        ],
    )
    def test_patterns(self, context: Path, ignore: str, expected: set[str]) -> None:
        (context / ".dockerignore").write_text(ignore)
        files = {path.removeprefix("/x/") for path in laid(context, "COPY . /x/")}
        assert files - {"Dockerfile", ".dockerignore"} == expected

    def test_a_hidden_folder_shows_what_is_excepted(self, context: Path) -> None:
        (context / ".dockerignore").write_text("src\n!src/deep/*.py")
        assert laid(context, "COPY src /x/") == {"/x/deep/x.py": "x"}

    def test_hidden_sources_are_named(self, context: Path) -> None:
        (context / ".dockerignore").write_text("a.txt")
        _, problems = read(context, "FROM base\nCOPY a.txt /x/")
        assert "the source 'a.txt' is hidden by .dockerignore" in problems[0]

    def test_the_dockerfiles_own_goes_first(self, context: Path) -> None:
        (context / ".dockerignore").write_text("a.txt")
        (context / "Dockerfile.dockerignore").write_text("b.txt")
        assert laid(context, "COPY *.txt /x/") == {"/x/a.txt": "a"}


class TestLinks:
    def test_inner_links_are_kept(self, context: Path) -> None:
        (context / "src/link").symlink_to("deep/x.py")
        (step,) = steps(context, "COPY src /x")
        links = {e.path: e.target for e in (step.tree or Tree()).entries if e.kind == "link"}
        assert links == {"link": "deep/x.py"}

    @pytest.mark.parametrize("target", ["/etc/passwd", "../a.txt", "deep/../../b.txt"])
    def test_links_out_of_the_folder_are_refused(self, context: Path, target: str) -> None:
        (context / "src/link").symlink_to(target)
        _, problems = read(context, "FROM base\nCOPY src /x")
        assert f"the link link -> {target} leaves its folder" in problems[0]

    def test_a_link_as_source_is_followed_inside_only(self, context: Path) -> None:
        (context / "inner").symlink_to("src/main.py")
        (context / "outer").symlink_to("/etc/hostname")
        assert laid(context, "COPY inner /x/") == {"/x/inner": "main"}
        _, problems = read(context, "FROM base\nCOPY outer /x/")
        assert "the source 'outer' is a link out of the build context" in problems[0]

    def test_a_parent_that_is_a_link_out(self, context: Path) -> None:
        (context / "etc").symlink_to("/etc")
        _, problems = read(context, "FROM base\nCOPY etc/hostname /x/")
        assert "link out of the build context" in problems[0]


def archive(path: Path, members: list[tarfile.TarInfo], mode: str = "w") -> None:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for member in members:
            file.addfile(member, io.BytesIO(b"x" * member.size))


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 1, target: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size if kind == tarfile.REGTYPE else 0, target
    info.mode = 0o4755
    return info


class TestArchives:
    @pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
    def test_add_unpacks(self, context: Path, packing: str) -> None:
        members = [
            member("./pack", tarfile.DIRTYPE),
            member("pack/file"),
            member("pack/link", tarfile.SYMTYPE, target="file"),
            member("pack/hard", tarfile.LNKTYPE, target="pack/file"),
        ]
        archive(context / "t.tar", members, f"w:{packing}")
        (step,) = steps(context, "ADD t.tar /x/")
        tree = step.tree or Tree()
        assert step.dest == "/x"
        assert tree.files() == {"pack/file": b"x", "pack/hard": b"x"}
        assert {e.path: e.kind for e in tree.entries}["pack/link"] == "link"
        assert {e.mode for e in tree.entries if e.kind == "file"} == {0o755}

    def test_copy_does_not_unpack(self, context: Path) -> None:
        archive(context / "t.tar", [member("file")])
        (step,) = steps(context, "COPY t.tar /x/")
        assert list((step.tree or Tree()).files()) == ["t.tar"]

    @pytest.mark.parametrize(
        "hostile",
        [
            member("/etc/passwd"),
            member("../up"),
            member("a/../../up"),
            member("link", tarfile.SYMTYPE, target="../../etc"),
            member("link", tarfile.SYMTYPE, target="/etc"),
            member("hard", tarfile.LNKTYPE, target="missing"),
            member("fifo", tarfile.FIFOTYPE),
            member("device", tarfile.CHRTYPE),
        ],
        ids=lambda info: f"{info.name}-{info.type.decode()}",
    )
    def test_hostile_archives_are_refused(self, context: Path, hostile: tarfile.TarInfo) -> None:
        archive(context / "t.tar", [hostile])
        _, problems = read(context, "FROM base\nADD t.tar /x/")
        assert len(problems) == 1
        assert "ADD cannot unpack 't.tar'" in problems[0]

    def test_unpacked_size_counts(self, context: Path) -> None:
        archive(context / "t.tgz", [member("zeros", size=900_000)], "w:gz")
        assert (context / "t.tgz").stat().st_size < 10_000
        _, problems = read(context, "FROM base\nADD t.tgz /x/", limit_bytes=100_000)
        assert "'t.tgz': entry 'zeros': it brings the archive past its limit" in problems[0]
        assert "the task has room for 0.1 MB more (task.size_limit_mb)" in problems[0]


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_bytes(b"FROM base\nENV A=\xff\n")
    problems = Problems()
    recipe = read_dockerfile(
        tmp_path / "Dockerfile",
        context=tmp_path,
        field="Dockerfile",
        images={},
        budget=Budget(1),
        problems=problems,
    )
    assert recipe is None
    assert "utf-8" in problems.lines[0]
