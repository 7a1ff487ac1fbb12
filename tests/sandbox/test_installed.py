"""What the host base takes of the host's packages, and what of the host it does not."""

import hashlib
from pathlib import Path

import pytest

from rollout.sandbox import installed
from rollout.sandbox.installed import Folder
from rollout.sandbox.skeleton import Skeleton

SHIPPED = "worker_processes auto;\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's tables, at first empty."""
    for name in ("STATUS", "MERGED", "PASSWD", "GROUP"):
        monkeypatch.setattr(installed, name, tmp_path / name)
    for name in ("LISTS", "TMPFILES"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(installed, name, tmp_path / name)
    return tmp_path


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def etc_file() -> tuple[Path, str]:
    """A file that every Debian has, and its content."""
    path = Path("/etc/login.defs")
    if not path.is_file():
        pytest.skip("this host has no /etc/login.defs")
    return path, path.read_text()


def test_config_is_taken_while_it_is_as_its_package_brought_it(host: Path) -> None:
    path, text = etc_file()
    (host / "STATUS").write_text(f"Package: login\nConffiles:\n {path} {md5(text)}\nStatus: x\n")
    assert list(installed.unchanged_config()) == [path]
    (host / "STATUS").write_text(f"Package: login\nConffiles:\n {path} {md5(SHIPPED)}\n")
    assert list(installed.unchanged_config()) == []


def test_config_that_a_package_merged_is_taken_too(host: Path) -> None:
    path, text = etc_file()
    (host / "MERGED").write_text(f"{md5(text)}  {path}\n")
    assert list(installed.unchanged_config()) == [path]


def test_missing_and_useless_config_is_left_out(host: Path) -> None:
    lines = f" /etc/nowhere {md5('')}\n /etc/cron.d/x {md5('')}\n /etc/old {md5('')} obsolete\n"
    (host / "STATUS").write_text(f"Conffiles:\n{lines}")
    assert list(installed.unchanged_config()) == []


def test_users_of_services_and_nobody_else(host: Path) -> None:
    (host / "PASSWD").write_text(
        "root:x:0:0:root:/root:/bin/bash\n"
        "postgres:x:101:104:The administrator,,,:/var/lib/postgresql:/bin/bash\n"
        "sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n"
        "admin:x:500:500:Who runs this host:/home/admin:/bin/bash\n"
        "alice:x:1001:1001:Alice:/home/alice:/bin/bash\n"
        "broken\n"
    )
    (host / "GROUP").write_text("root:x:0:\nssl-cert:x:103:postgres\nalice:x:1001:\n")
    passwd, group = installed.service_users()
    assert passwd == (
        "postgres:x:101:104:postgres:/var/lib/postgresql:/bin/bash\n"
        "sshd:x:102:65534:sshd:/run/sshd:/usr/sbin/nologin\n"
    )
    assert group == "ssl-cert:x:103:\n"


def test_folders_of_packages(host: Path) -> None:
    (host / "PASSWD").write_text("postgres:x:101:104::/var/lib/postgresql:/bin/bash\n")
    (host / "GROUP").write_text("postgres:x:104:\n")
    (host / "LISTS" / "x.list").write_text("/.\n/usr/bin/x\n/var/lib/dpkg\n/var/lib/nowhere\n")
    (host / "TMPFILES" / "p.conf").write_text(
        "# comment\nd /run/postgresql 2775 postgres postgres - -\nd /tmp/x 0755 root root -\n"
    )
    (host / "TMPFILES" / "systemd.conf").write_text("d /run/user 0755 root root -\n")
    assert list(installed.folders()) == [
        *([Folder("var/lib/dpkg", 0o755, 0, 0)] if Path("/var/lib/dpkg").is_dir() else []),
        Folder("run/postgresql", 0o2775, 101, 104),
    ]


@pytest.mark.native
def test_skeleton_has_them_and_keeps_its_own(host: Path, tmp_path: Path) -> None:
    path, text = etc_file()
    (host / "STATUS").write_text(
        f"Conffiles:\n {path} {md5(text)}\n /etc/hosts {md5(Path('/etc/hosts').read_text())}\n"
    )
    (host / "PASSWD").write_text(
        "user:x:999:999::/var/x:/bin/sh\nredis:x:110:110::/var/r:/bin/sh\n"
    )
    (host / "GROUP").write_text("redis:x:110:\n")
    (host / "TMPFILES" / "r.conf").write_text("d /run/redis 2755 redis redis - -\n")
    root = tmp_path / "root"
    Skeleton().write(root)
    assert (root / "etc/login.defs").read_text() == text
    assert "sandbox" in (root / "etc/hosts").read_text()
    users = (root / "etc/passwd").read_text().splitlines()
    assert [line for line in users if line.startswith("user:")] == [
        "user:x:1000:1000:user:/home/user:/bin/bash"
    ]
    assert "redis:x:110:110:redis:/var/r:/bin/sh" in users
    assert "redis:*:" in (root / "etc/shadow").read_text()
    about = (root / "run/redis").stat()
    assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o2755, 110, 110)
    assert not any((root / "run/redis").iterdir())
