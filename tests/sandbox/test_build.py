"""The compiled init: static, built once however many ask, and told from one of other sources."""

import struct
import subprocess
import sys
from pathlib import Path

from rollout.sandbox.init import build

PT_LOAD, PT_INTERP = 1, 3


def test_the_program_is_static_and_says_how_it_is_used(tmp_path: Path) -> None:
    made = build.build(tmp_path / "box")
    elf = made.read_bytes()
    assert elf[:4] == b"\x7fELF"
    offset, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)
    kinds = {struct.unpack_from("<I", elf, offset + n * size)[0] for n in range(count)}
    assert PT_LOAD in kinds
    assert PT_INTERP not in kinds
    used = subprocess.run([made], capture_output=True, text=True, check=False)
    assert used.returncode == 1
    assert "usage: rollout-box init" in used.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_the_sources_compile_without_a_warning() -> None:
    """Here and not in the build: a newer compiler's new warning must not fail an install."""
    sources = sorted(build.HERE.glob("*.c"))
    strict = ["gcc", *build.FLAGS, "-Werror", "-fsyntax-only", '-DSOURCES_DIGEST="x"', *sources]
    done = subprocess.run(strict, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_rebuilt_for_other_sources_and_only_once(tmp_path: Path) -> None:
    folder = tmp_path / "init"
    folder.mkdir()
    (folder / "main.c").write_text(
        "const char d[] __attribute__((used)) = SOURCES_DIGEST;\nint main(void) { return 7; }\n"
    )
    (folder / "build.py").write_bytes(Path(build.__file__).read_bytes())
    script = "import build; p = build.binary(); print(p.stat().st_ino)"

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-B", "-c", script]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)

    asked = [start() for _ in range(3)]
    first = {process.communicate()[0] for process in asked}
    assert len(first) == 1
    assert subprocess.run([folder / "rollout-box"], check=False).returncode == 7
    (folder / "main.c").write_text((folder / "main.c").read_text().replace("7", "8"))
    assert {start().communicate()[0]} != first
    assert subprocess.run([folder / "rollout-box"], check=False).returncode == 8


def test_a_compiler_that_refuses_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return nothing; }\n")
    (tmp_path / "build.py").write_bytes(Path(build.__file__).read_bytes())
    script = "import build\ntry: build.build()\nexcept build.CompileError as e: print(e)"
    told = subprocess.run(
        [sys.executable, "-B", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing" in told.stdout
    assert not (tmp_path / "rollout-box").exists()
