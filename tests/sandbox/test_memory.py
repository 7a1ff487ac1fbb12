"""The memory engine against the real shell: the same scripts must print and end alike."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import SandboxError
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.memory.arithmetic import ArithmeticFault, evaluate
from rollout.sandbox.memory.parser import parse
from rollout.sandbox.memory.words import ShellSyntaxError
from rollout.types import Blueprint, Resources
from tests.sandbox.harness import shell_in

SCRIPTS = r"""
x='a  b'; for i in $x "$x" ''; do echo "[$i]"; done
echo "$(echo one; echo two)" `echo three`
echo ${x-unset} ${x:-d} ${x:=set} $x ${x:+alt} ${#x}
f=dir/name.tar.gz; echo ${f%.*} ${f%%.*} ${f#*/} ${f##*.} ${f%/*}
echo $((1 + 2 * 3)) $(( (1+2)*3 )) $((7/2)) $((-7/2)) $((7%3)) $((1<<4)) $((5>3&&2>1))
i=0; while [ $i -lt 5 ]; do i=$((i+1)); [ $i = 2 ] && continue; [ $i = 4 ] && break; echo $i; done
for i in 1 2; do for j in a b; do [ $j = b ] && continue 2; echo $i$j; done; done
until [ "$n" = xxx ]; do n=x$n; done; echo $n
case hello in h*o) echo yes;; *) echo no;; esac
case "$((1+1))" in 1|2) echo few;; esac
if false; then echo a; elif true; then echo b; else echo c; fi
f() { echo "$# $1"; return 3; }; f 'x y' z; echo $?
f() { local v=in; echo $v; }; v=out; f; echo $v
set -- a 'b c' d; for i in "$@"; do echo "<$i>"; done; shift; echo $# "$*"; IFS=-; echo "$*"
set -e; false || echo caught; if false; then :; fi; ! true; echo here; false; echo never
set -e; (exit 3); echo never
set -u; echo ${a:-ok}; echo $nothing; echo never
trap 'echo bye $?' EXIT; echo hi; exit 5
trap 'echo got' TERM; kill -TERM $$; echo after
(exit 7); echo $?; { echo grouped; }; (cd /; pwd); x=1; (x=2); echo $x
echo a | cat | tr a b; true | false; echo $?; ! false; echo $?
printf '%s:%d\n' a 1 b 2; printf '%05d|%-4s|%4s|%x\n' 42 ab cd 255; printf '\101\n'
echo one > f; echo two >> f; cat f; cat < f | wc -l; cat f > /dev/null
echo err >&2 2>/dev/null; { echo o; echo e >&2; } 2>&1 | sort
exec 3> out; echo to three >&3; exec 3>&-; cat out
echo a b c | { read x y; echo "$y,$x"; }; printf 'l1\nl2\n' | while read l; do echo "<$l>"; done
printf 'no newline' | { read x; echo $? $x; }
printf 'a\134b' | { read -r x; printf "%s-\\n" "$x"; }
mkdir -p d/e; touch d/b.txt d/a.txt d/e/c; echo d/*.txt; echo d/*/c; echo d/z*; rm -r d; ls d 2>&-
ln -s target link; readlink link; [ -L link ] && echo link; [ -e link ] || echo dangling
echo x > a; cp a b; mv b c; cat c; [ -f b ] || echo moved; test -s a && echo sized
echo '$x' "a\"b" 'it'"'"'s' a\ b "\$x"
eval 'y=3; echo $y'; echo 'echo sourced $z' > s.sh; z=zed; . ./s.sh; sh s.sh
A=1 sh -c 'echo $A'; echo ${A-unset}; export B=2; sh -c 'echo $B'; env C=3 sh -c 'echo $C'
sh -c 'echo $0 $1 $#' name one two; sh -c 'exit 9'; echo $?
printf 'b\na\nc\na\n' | sort -u; printf '10\n9\n' | sort -n
printf 'x\nx\ny\n' | uniq -c | tr -s ' '
printf 'one\ntwo\nthree\n' | grep -n t; echo abc | grep -q z; echo $?
printf 'a.c\nabc\n' | grep -F a.c
printf 'a1\nb2\n' | grep -E '^[a-z]2$'; printf 'x\ny\n' | grep -v x; printf 'a\nb\n' | grep -c .
echo hello | sed 's/l/L/g; s/^\(.\)\(.\)/\2\1/'; printf '1\n2\n3\n' | sed -n '2p'
printf '1\n2\n' | sed 1d
printf 'a:b:c\n' | cut -d: -f2; seq 3; seq 2 2 6; basename /a/b.txt .txt; dirname /a/b
sleep 0.05 & wait $!; echo $?; (exit 4) & wait $!; echo $?; sleep 5 & kill $!; wait $!; echo $?
x=$(false); echo $?; x=$(echo a; exit 2) || echo "$? $x"; echo "$(printf 'a\n\n\n')|"
command -v nothing-here; echo $?; type cd > /dev/null; echo $?; nothing-here 2>/dev/null; echo $?
[ 1 -lt 2 -a 2 -lt 3 ] && echo and; [ -z "" -o 1 = 2 ] && echo or
[ ! -e /none ] && echo not; [ "(" = "(" ]; echo $?
echo $(echo '*') '*' "*"; echo a{b c}d; echo "a	b"; echo ~ | wc -w
if [ -n "$HOME" ]; then echo has; fi # a comment; echo hidden
echo a#b; echo \# ; : "unused ${q:=assigned}"; echo $q
a=1; b=$a$a"$a"; echo $b; c="$a b"; d=$c; echo "$d"; unset a; echo ${a-gone}
while true; do break; done; echo $?; for i in; do echo never; done; echo $?
f() { if [ $1 -gt 0 ]; then echo $1; f $(($1-1)); fi; }; f 3
x=; echo ${x:-"a b"} "${x:-c  d}" ${x:-$(echo e)}; echo "${y-'q'}"
cat nothing 2>/dev/null && echo found || echo missing; cat < nothing; echo $?
echo a; exit 300
readonly r=1; echo $r; umask > /dev/null; hash; echo $-x | wc -l
find . -name 'x*' | wc -l; mkdir sub; touch sub/x1; find . -name 'x*'; find . -type d | sort
printf '%s\n' a b c | head -n 2 | tail -n 1
printf 'abcdef' | head -c 3; printf 'abcdef' | tail -c 2
printf 'a b\nc d\n' | while read -r x y; do echo "$y $x"; done > out; cat out; wc -w < out
sh -c 'kill -9 $$'; echo $?; (trap '' TERM; kill -TERM $$ 2>/dev/null; :)
sh -c 'trap "exit 6" TERM; kill $$; sleep 1'; echo $?
exec sh -c 'echo replaced; exit 8'
echo 'unterminated
"""

HERE_DOCUMENTS = r"""
x=v; cat <<END; echo after
value $((6*7)) "quoted" \$x $x `echo sub`
END
====
cat <<'END'
no $expansion `here`
END
====
cat <<-END
	tabs go
	END
====
cat <<ONE; cat <<TWO | tr a-z A-Z
first
ONE
second
TWO
====
f() {
  cat > "$1" <<END
in a function: $2
END
}
f out 'a  b'; cat out
====
if true
then
  # a comment
  for x in a \
    b
  do echo $x
  done
fi |
  sort -r &&
  echo done
====
echo "a
b" 'c
d'
====
x=$(cat <<END
inside
END
); echo "$x"
"""


JOB_NOTES = (b"Terminated", b"Killed", b"Killed ", b"Terminated ")
"""What dash says of a child that a signal ended; the memory engine's shell does not."""


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    engine = MemoryEngine()
    await engine.start()
    image = await engine.build(Blueprint())
    yield await engine.create(SandboxSpec(image=image, workdir="/tmp"))
    await engine.close()


@pytest.mark.skipif(not Path("/bin/dash").exists(), reason="compares with dash")
@pytest.mark.parametrize(
    "script", SCRIPTS.strip("\n").split("\n") + HERE_DOCUMENTS.strip("\n").split("\n====\n")
)
async def test_scripts_do_what_the_real_shell_does(
    box: Sandbox, tmp_path: Path, script: str
) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/dash")
    folder.mkdir()
    real = await asyncio.to_thread(
        subprocess.run,
        [programs / "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        env={"PATH": f"{programs}:{os.defpath}", "HOME": str(tmp_path)},
        check=False,
    )
    mine = await shell_in(box)(script, timeout_s=10)
    assert mine.stdout.decode() == real.stdout.decode()
    assert mine.exit_code == (real.returncode if real.returncode >= 0 else 128 - real.returncode)
    complaints = [line for line in real.stderr.splitlines() if line not in JOB_NOTES]
    assert bool(mine.stderr) == bool(complaints), (mine.stderr, real.stderr)


@given(st.text(alphabet="ab $(){}[]'\"\\`;&|<>\n#!=*?%/-0if thendofesac", max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_parser_ends_on_any_text(script: str) -> None:
    try:
        parse(script)
    except (ShellSyntaxError, RecursionError):
        return


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%<>&|^"), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"!{text}"),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
@settings(max_examples=60, deadline=None)
@pytest.mark.skipif(not shutil.which("dash"), reason="compares with dash")
def test_arithmetic_is_that_of_the_real_shell(expression: str) -> None:
    spaced = expression.replace("-", " - ")
    real = subprocess.run(
        ["dash", "-c", f"echo $(({spaced}))"], capture_output=True, text=True, check=False
    )
    try:
        mine = str(evaluate(spaced, lambda name: "", lambda name, value: None))
    except ArithmeticFault:
        mine = ""
    assert mine == real.stdout.strip()


async def test_only_what_was_written_counts_against_the_disk_limit() -> None:
    engine = MemoryEngine()
    await engine.start()
    image = await engine.build(Blueprint())
    first = await engine.create(SandboxSpec(image=image))
    await first.write_file("/srv/image", bytes(3 << 20))
    spec = SandboxSpec(image=await first.end_as_image(), resources=Resources(disk_mb=1))
    box = await engine.create(spec)
    await box.write_file("/srv/own", bytes(1 << 20))
    assert await box.limits_hit() == ()
    with pytest.raises(SandboxError, match="No space left"):
        await box.write_file("/srv/more", b"x")
    assert await box.limits_hit() == ("disk",)
    await box.remove("/srv/own")
    await box.write_file("/srv/more", b"x")
    # As in an overlay, the first write to a file of the image copies all of it.
    append = await shell_in(box)("echo x >> /srv/image")
    assert b"No space left" in append.stderr
    await engine.close()


async def test_an_engine_that_was_not_started_makes_nothing() -> None:
    with pytest.raises(SandboxError, match="not running"):
        await MemoryEngine().build(Blueprint())
