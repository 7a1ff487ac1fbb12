"""How an agent is installed in a sandbox: below a prefix of its own, its commands on the PATH.

Only the commands of the agent itself are linked, so that what it depends on stands in nobody's way.
"""

from collections.abc import Sequence
from dataclasses import replace

from rollout.types import BuildStep, Secret

PREFIX = "/opt/agents"
SOURCE = "src"
"""Below the prefix: what is installed from, gone afterwards."""
COMMANDS = ".commands"
"""Below the prefix: the names of its commands, one a line."""

NPM = """\
set -eu
prefix=$1 what=$2
command -v npm >/dev/null || { echo "this image has no npm; use a base with Node.js" >&2; exit 1; }
export HOME=$(mktemp -d)
mkdir -p "$prefix"
npm install --global --prefix "$prefix" --cache "$HOME/cache" --install-links \\
    --no-audit --no-fund --no-update-notifier "$what"
rm -rf "$HOME" "$prefix/src"
ls "$prefix/bin" > "$prefix/.commands"
"""
PIP = """\
set -eu
prefix=$1 what=$2 own=$3
command -v python3 >/dev/null || { echo "this image has no python3" >&2; exit 1; }
export HOME=$(mktemp -d)
python3 -m venv --copies --without-pip "$prefix"
pip="python3 -m pip --python $prefix/bin/python"
if ! $pip --version >/dev/null 2>&1; then
    "$prefix/bin/python" -m ensurepip >/dev/null
    pip="$prefix/bin/python -m pip"
fi
$pip install --no-input --disable-pip-version-check --no-cache-dir \\
    --no-compile "$what"
"$prefix/bin/python" - "$own" > "$prefix/.commands" <<'END'
import sys
from importlib.metadata import distribution, distributions
own = sys.argv[1]
of = [distribution(own)] if own else [d for d in distributions() if d.read_text("direct_url.json")]
found = {e.name for d in of for e in d.entry_points if e.group == "console_scripts"}
print("\\n".join(sorted(found)))
END
# Where files are put by value their times are new, and other compiled files would be too old.
"$prefix/bin/python" -m compileall -q -x '/(pip|setuptools|pkg_resources)/' \\
    --invalidation-mode unchecked-hash "$prefix/lib" || true
rm -rf "$HOME" "$prefix/src"
"""
PLAIN = """\
set -eu
prefix=$1
ls "$prefix/bin" > "$prefix/.commands"
chmod a+rx "$prefix" "$prefix/bin" "$prefix/bin"/*
"""
LINK = """\
set -eu
prefix=$1
mkdir -p /usr/local/bin
while read -r name; do
    [ -z "$name" ] || ln -sfn "$prefix/bin/$name" "/usr/local/bin/$name"
done < "$prefix/.commands"
"""
VERIFY = """\
set -u
prefix=$1 name=$2 version=$3 command=$4
export HOME=$(mktemp -d) PATH=$prefix/bin:$PATH
said=$(cd "$HOME" && sh -c "$command" 2>&1 </dev/null) && code=0 || code=$?
rm -rf "$HOME"
[ "$code" = 0 ] && printf '%s\\n' "$said" | tr -c 'A-Za-z0-9.+!_-' '\\n' | sed 's/^v//; s/[.]$//' |
    grep -Fxq -e "$version" && exit 0
{
    echo "agent $name: \\`$command\\` must say version $version and exit with 0; exit code $code"
    echo "and says: $(printf %s "$said" | head -c 300)"
    echo "Its commands are: $(tr '\\n' ' ' < "$prefix/.commands")"
    echo "Name another one as version_command, or null for no check."
} >&2
exit 1
"""


def install_steps(
    name: str,
    kind: str,
    what: str,
    own: str = "",
    secrets: Sequence[Secret] = (),
) -> tuple[BuildStep, ...]:
    """The commands that install it.

    kind: `npm`, `pip` or `plain`. what: what the installer is asked for; empty: what lies in the
    prefix. own: for pip, the name of the agent's own distribution.
    """
    prefix = f"{PREFIX}/{name}"
    script = {"npm": NPM, "pip": PIP, "plain": PLAIN}[kind]
    asked = what or f"{prefix}/{SOURCE}"
    return (_run(script, prefix, asked, own, secrets=tuple(secrets)),)


def link_step(name: str) -> BuildStep:
    return replace(_run(LINK, f"{PREFIX}/{name}"), value=f"agent {name}")


def verify_step(name: str, version: str, command: str) -> BuildStep:
    """Fails where the agent that was installed is of another version than the one recorded."""
    return _run(VERIFY, f"{PREFIX}/{name}", name, version, command)


def _run(script: str, *words: str, secrets: tuple[Secret, ...] = ()) -> BuildStep:
    argv = ("sh", "-c", script, "install", *words)
    return BuildStep(op="run", argv=argv, user="root", secrets=secrets)
