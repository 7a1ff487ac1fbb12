"""What people and agents run every day, in a sandbox of the host base, as it is shipped.

What is skipped here says so: the host base has the programs of its host.
"""

import io
import shutil
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.types import Blueprint
from tests.sandbox.conftest import running

pytestmark = [
    pytest.mark.native,
    pytest.mark.tools,
    pytest.mark.asyncio(loop_scope="module"),
]

PYTHON = "/usr/bin/python3"
WHERE = "/usr/sbin:/usr/bin:/usr/lib/postgresql/17/bin:/usr/lib/postgresql/16/bin:" + (
    "/usr/lib/postgresql/15/bin:/usr/lib/postgresql/14/bin"
)
"""Of the sandbox's own programs; this process may find others first."""
PATIENCE_S = 240.0
"""Some disks are slow to make files, whoever makes them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    async with running("native", tmp_path_factory.mktemp("tools")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def box(engine: Engine) -> AsyncIterator[Sandbox]:
    made = await sandbox(engine, Blueprint())
    yield made
    await made.close()


async def sandbox(engine: Engine, blueprint: Blueprint) -> Sandbox:
    image = await engine.build(blueprint)
    return await engine.create(SandboxSpec.for_blueprint(image, blueprint))


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=WHERE) is None:
            pytest.skip(f"this host has no {program}")


async def out(box: Sandbox, script: str, *, user: str = "", timeout_s: float = 60.0) -> str:
    """What a script prints, without the last newline; every command of it must succeed."""
    result = await box.exec(
        ["bash", "-ec", script], env={"PATH": WHERE}, user=user, timeout_s=timeout_s
    )
    assert result.ok, (result.exit_code, result.stdout.decode(), result.stderr.decode())
    return result.stdout.decode().rstrip("\n")


# ---------------------------------------------------------------- installing


async def test_apt_get_installs_a_local_package(box: Sandbox) -> None:
    need("apt-get", "dpkg-deb")
    script = r"""
    mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/etc
    printf 'Package: greeter\nVersion: 1.0\nArchitecture: all\nMaintainer: me <me@localhost>\n' \
        > /tmp/p/DEBIAN/control
    printf 'Description: says hello\n' >> /tmp/p/DEBIAN/control
    printf '#!/bin/sh\nset -e\nuseradd --system greeter\nchown greeter /etc/greeter.conf\n' \
        > /tmp/p/DEBIAN/postinst
    chmod 755 /tmp/p/DEBIAN/postinst
    echo /etc/greeter.conf > /tmp/p/DEBIAN/conffiles
    echo hello > /tmp/p/etc/greeter.conf
    printf '#!/bin/sh\ncat /etc/greeter.conf\n' > /tmp/p/usr/bin/greet
    chmod 755 /tmp/p/usr/bin/greet
    dpkg-deb --build --root-owner-group /tmp/p /tmp/greeter.deb
    DEBIAN_FRONTEND=noninteractive apt-get install -y /tmp/greeter.deb
    """
    await out(box, script)
    assert await out(box, "greet; stat -c %U /etc/greeter.conf") == "hello\ngreeter"
    assert await out(box, "dpkg-query -W -f '${Status}' greeter") == "install ok installed"
    await out(box, "apt-get purge -y greeter && ! command -v greet && ! test -e /etc/greeter.conf")
    assert not Path("/usr/bin/greet").exists()


async def test_pip_installs_a_wheel(box: Sandbox) -> None:
    need("python3")
    if not (await box.exec([PYTHON, "-m", "pip", "--version"])).ok:
        pytest.skip("this host's /usr/bin/python3 has no pip")
    wheel = io.BytesIO()
    info = "greeting-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeting.py", "def main():\n    print('hello')\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ngreet = greeting:main\n")
        archive.writestr(f"{info}/RECORD", "")
    await box.write_file("/tmp/greeting-1.0-py3-none-any.whl", wheel.getvalue())
    await out(
        box,
        f"{PYTHON} -m pip install -q --no-index --break-system-packages /tmp/greeting*.whl",
    )
    assert await out(box, "/usr/local/bin/greet") == "hello"
    assert not Path("/usr/local/bin/greet").exists()


async def test_npm_installs_an_archive(box: Sandbox) -> None:
    need("node", "npm")
    script = """
    mkdir -p /tmp/greeting /workspace/app; cd /tmp/greeting
    echo '{"name": "greeting", "version": "1.0.0"}' > package.json
    echo "module.exports = () => 'hello'" > index.js
    npm pack --silent; cd /workspace/app; echo '{"name": "app"}' > package.json
    npm install --silent --offline --no-audit --no-fund /tmp/greeting/greeting-1.0.0.tgz
    node -e "console.log(require('greeting')())"
    """
    assert (await out(box, script)).endswith("hello")


# ---------------------------------------------------------------- developing


async def test_gcc_compiles_what_runs(box: Sandbox) -> None:
    need("gcc")
    program = '#include <stdio.h>\n#include <math.h>\nint main(){printf("%.3f\\n", sqrt(2));}\n'
    await box.write_file("/workspace/root.c", program.encode())
    assert await out(box, "cd /workspace; gcc -O2 -Wall root.c -lm -o root; ./root") == "1.414"


async def test_git_clones(box: Sandbox) -> None:
    need("git")
    script = """
    git init -q -b main /tmp/origin; cd /tmp/origin
    git config user.name me; git config user.email me@localhost
    echo hello > README; git add .; git commit -qm first
    git clone -q file:///tmp/origin /workspace/copy; cd /workspace/copy
    git checkout -qb other; git log --format=%s; cat README
    """
    assert await out(box, script) == "first\nhello"


PROCESSES = """
import multiprocessing as mp
from multiprocessing import shared_memory

def square(n):
    return n * n

def add(block, semaphore, name):
    with semaphore:
        memory = shared_memory.SharedMemory(name)
        memory.buf[0] += 1
        memory.close()
    block.wait(10)

if __name__ == "__main__":
    with mp.Pool(4) as pool:
        print(sum(pool.map(square, range(100))))
    memory = shared_memory.SharedMemory(create=True, size=4096)
    barrier, semaphore = mp.Barrier(4), mp.Semaphore(1)
    workers = [mp.Process(target=add, args=(barrier, semaphore, memory.name)) for _ in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    print(memory.buf[0], [worker.exitcode for worker in workers])
    memory.close(); memory.unlink()
    with mp.Manager() as manager:
        print(manager.dict(a=1)["a"])
"""


async def test_python_with_many_processes(box: Sandbox) -> None:
    await box.write_file("/workspace/processes.py", PROCESSES.encode())
    seen = await out(box, f"{PYTHON} /workspace/processes.py", user="user")
    assert seen == "328350\n4 [0, 0, 0, 0]\n1"


async def test_node_with_workers_and_a_server(box: Sandbox) -> None:
    need("node")
    program = """
    const { Worker } = require('worker_threads'), http = require('http');
    const server = http.createServer((_, reply) => reply.end('served')).listen(80, async () => {
      const text = await (await fetch('http://localhost')).text();
      new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true })
        .on('message', (n) => { console.log(text, n); process.exit(); });
    });
    """
    await box.write_file("/workspace/serve.js", program.encode())
    assert await out(box, "node /workspace/serve.js", user="user") == "served 42"


async def test_strace_sees_system_calls(box: Sandbox) -> None:
    need("strace")
    seen = await out(box, "strace -f -e trace=execve sh -c '/bin/true & wait' 2>&1", user="user")
    assert 'execve("/bin/true"' in seen
    assert "+++ exited with 0 +++" in seen


async def test_tmux_keeps_a_shell(box: Sandbox) -> None:
    need("tmux")
    script = """
    tmux new-session -d -s work -x 80 -y 24; tmux send-keys -t work 'echo $((6 * 7)) > /tmp/n' Enter
    for _ in $(seq 200); do [ -s /tmp/n ] && break; sleep 0.05; done
    cat /tmp/n; tmux list-sessions -F '#{session_name}'; tmux kill-server
    """
    assert await out(box, script, user="user") == "42\nwork"


# ---------------------------------------------------------------- serving


async def test_postgres_as_its_own_user(box: Sandbox) -> None:
    need("initdb", "pg_ctl", "psql")
    await out(box, "id postgres 2>/dev/null || useradd --system postgres")
    await out(box, "install -d -o postgres /srv/db /run/postgresql")
    start = """
    cd /srv/db; initdb -D data -A trust --no-sync > log
    pg_ctl -D data -w -l log -o '-c unix_socket_directories=/run/postgresql' start >> log
    """
    await out(box, start, user="postgres")
    query = "-U postgres -d postgres -Atc 'select sum(n) from generate_series(1, 100) n'"
    for host in ("/run/postgresql", "127.0.0.1"):
        assert await out(box, f"psql -h {host} {query}", user="user") == "5050"
    await out(box, "cd /srv/db; pg_ctl -D data -m fast stop > /dev/null", user="postgres")


async def test_nginx_on_port_80(box: Sandbox) -> None:
    need("nginx")
    conf = "user www-data;\nevents {}\nhttp { server { listen 80; root /srv/www; } }\n"
    await box.write_file("/srv/nginx.conf", conf.encode())
    await box.write_file("/srv/www/index.html", b"hello")
    await out(box, "mkdir -p /var/log/nginx /var/lib/nginx; nginx -c /srv/nginx.conf")
    fetch = "import urllib.request as u; print(u.urlopen('http://localhost').read().decode())"
    assert await out(box, f'{PYTHON} -c "{fetch}"', user="user") == "hello"
    users = await out(box, "ps -o user= -C nginx | sort -u")
    assert users.split() == ["root", "www-data"]
    await out(box, "nginx -c /srv/nginx.conf -s stop")


async def test_sshd_lets_a_key_in(box: Sandbox) -> None:
    need("sshd", "ssh", "ssh-keygen")
    script = """
    mkdir -p /etc/ssh; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
    id sshd >/dev/null 2>&1 || useradd --system sshd
    mkdir -p /run/sshd /root/.ssh /home/user/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id
    cp /root/.ssh/id.pub /home/user/.ssh/authorized_keys
    cp /root/.ssh/id.pub /root/.ssh/authorized_keys; chown -R user: /home/user
    [ -e /etc/ssh/sshd_config ] || touch /etc/ssh/sshd_config; $(command -v sshd)
    for who in user root; do
        ssh -i /root/.ssh/id -o StrictHostKeyChecking=no -o LogLevel=ERROR $who@127.0.0.1 whoami
    done
    ssh -tt -i /root/.ssh/id -o LogLevel=ERROR user@127.0.0.1 tty | tr -d '\\r'
    """
    user, root, terminal = (await out(box, script)).split("\n")
    assert (user, root) == ("user", "root")
    assert terminal.startswith("/dev/pts/")


async def test_sudo_where_the_blueprint_says_so(engine: Engine, box: Sandbox) -> None:
    need("sudo")
    lent = await sandbox(engine, Blueprint(sudo=True))
    try:
        assert (
            await out(lent, "sudo -n id -u; sudo -n -u nobody id -un", user="user") == "0\nnobody"
        )
        assert await out(lent, "grep NoNewPrivs /proc/self/status | cut -f2") == "0"
    finally:
        await lent.close()
    refused = await box.exec(["sudo", "-n", "id"], user="user")
    assert refused.exit_code == 1
    assert b'"no new privileges" flag' in refused.stderr


# ---------------------------------------------------------------- much


async def test_ten_thousand_files(box: Sandbox) -> None:
    script = """
    mkdir -p /workspace/many; cd /workspace/many
    seq -f 'f%05g' 10000 | xargs touch; ls | wc -l
    tar -cf /tmp/many.tar .; rm -rf /workspace/many; mkdir /workspace/again
    tar -xf /tmp/many.tar -C /workspace/again; find /workspace/again -type f | wc -l
    """
    assert await out(box, script, timeout_s=PATIENCE_S) == "10000\n10000"


async def test_a_gigabyte(box: Sandbox) -> None:
    script = """
    dd if=/dev/zero of=/workspace/big bs=1M count=1024 status=none; stat -c %s /workspace/big
    tail -c 1 /workspace/big | od -An -tu1; rm /workspace/big
    """
    size, last = (await out(box, script, timeout_s=PATIENCE_S)).split()
    assert (int(size), last) == (1 << 30, "0")
