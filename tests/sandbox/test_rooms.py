"""Rooms made ahead: for whom they are ordered, and that a sandbox in one is like any other."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest

from rollout.errors import SandboxError
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.rooms import MOST, Recipe, Rooms
from rollout.types import Resources
from tests.sandbox.harness import PATIENCE_S, needs_btrfs, until_empty
from tests.sandbox.test_native import conf, leftovers, make, out, python

REACH_ONESELF = (
    "import socket; s = socket.create_server(('127.0.0.1', 80)); "
    "c = socket.create_connection(('127.0.0.1', 80)); c.send(b'hi'); "
    "print(s.accept()[0].recv(9).decode())"
)
A, B, C = (Recipe((name,)) for name in "abc")


class Uids:
    """So many ranges, by number."""

    def __init__(self, count: int) -> None:
        self.free = list(range(count))

    def take(self, wanted: int | None = None) -> int:
        if not self.free:
            raise SandboxError("all are in use")
        return self.free.pop()

    def give(self, uid: int) -> None:
        self.free.append(uid)


class Launcher:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.alive = True
        self.ordered: dict[str, tuple[tuple[str, str], ...]] = {}
        self.dropped: list[str] = []

    def order(self, room: str, fields: Sequence[tuple[str, str]]) -> None:
        self.ordered[room] = tuple(fields)

    def drop(self, room: str) -> None:
        self.dropped.append(room)


class Books:
    def __init__(self, uids: int = 64) -> None:
        self.uids, self.launcher = Uids(uids), Launcher()
        self.cleared: list[str] = []
        self.rooms = Rooms(self.uids, self.cleared.append)

    def ask(self, recipe: Recipe, times: int = 1) -> list[str]:
        """The rooms that so many sandboxes got, one after the other."""
        got = []
        for _ in range(times):
            room = self.rooms.take(recipe, self.launcher)
            got += [room.name] if room is not None else []
            self.rooms.replenish(recipe, [("root", recipe.layers[0])])
            if room is not None:
                self.uids.give(room.uid)
        return got

    def held(self) -> set[str]:
        return set(self.launcher.ordered) - set(self.launcher.dropped)


def test_what_is_asked_for_once_gets_no_room() -> None:
    books = Books()
    for recipe in (A, B, C):
        assert books.ask(recipe) == []
    assert books.launcher.ordered == {}
    assert len(books.uids.free) == 64


def test_what_is_asked_for_again_gets_all_rooms_one_ahead_of_another() -> None:
    books = Books()
    assert books.ask(A, 2) == []
    assert books.launcher.ordered == {
        "r1": (("uids", "63"), ("root", "a")),
        "r2": (("uids", "62"), ("root", "a")),
    }
    assert books.ask(A, 2) == ["r1", "r2"]
    taken = books.ask(A, 20)
    assert len(set(taken)) == 20
    assert len(books.held()) - len({"r1", "r2", *taken}) == MOST
    assert books.launcher.dropped == []


def test_two_recipes_share_and_none_takes_from_the_other_in_turn() -> None:
    books = Books()
    books.ask(A, 20)
    for _ in range(20):
        books.ask(A)
        books.ask(B)
    dropped = len(books.launcher.dropped)
    assert dropped <= MOST / 2
    for _ in range(20):
        assert len(books.ask(A) + books.ask(B)) == 2
    assert len(books.launcher.dropped) == dropped


def test_what_was_asked_for_often_keeps_its_rooms_while_others_have_their_turn() -> None:
    books = Books()
    for _ in range(3):
        books.ask(A, 20)
        books.ask(B, 20)
    dropped = len(books.launcher.dropped)
    assert len(books.ask(A, 20) + books.ask(B, 20)) == 40
    assert len(books.launcher.dropped) == dropped


def test_uids_of_rooms_are_there_for_sandboxes() -> None:
    books = Books(uids=10)
    books.ask(A, 20)
    taken = [books.rooms.take_uid(0) for _ in range(2)]
    assert books.launcher.dropped == []
    taken += [books.rooms.take_uid(0) for _ in range(8)]
    assert len(books.launcher.dropped) == MOST
    assert sorted(taken) == list(range(10))
    with pytest.raises(SandboxError, match="in use"):
        books.rooms.take_uid(0)


def test_what_cannot_be_made_is_not_ordered_again(caplog: pytest.LogCaptureFixture) -> None:
    books = Books()
    books.ask(A, 2)
    books.rooms.dropped("r1", "open layer a: No such file or directory")
    assert "open layer a" in caplog.text
    ordered = dict(books.launcher.ordered)
    books.ask(A, 5)
    assert books.launcher.ordered == ordered
    assert books.cleared == ["r1"]


def test_rooms_go_with_their_launcher() -> None:
    books = Books()
    books.ask(A, 5)
    books.launcher.alive = False
    books.launcher = Launcher()
    assert books.ask(A) == []
    assert books.launcher.dropped == []
    assert len(books.uids.free) + len(books.held()) == 64


def test_rooms_on_a_lost_volume_are_given_up_and_no_others() -> None:
    books = Books()
    lost, found = Recipe(("a",), 1, "v1"), Recipe(("a",), 1, "v2")
    books.ask(lost, 2)
    of_lost = books.held()
    books.ask(found, 2)
    books.rooms.leave("v1")
    assert set(books.launcher.dropped) == of_lost
    assert books.ask(lost) == []
    assert books.ask(found) != []


# ---------------------------------------------------------------- on a real launcher


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(conf(tmp_path))
    await made.start()
    yield made
    await made.close()
    await until_empty(lambda: leftovers(tmp_path), "left behind")


async def in_a_room(engine: NativeEngine, resources: Resources) -> NativeSandbox:
    """The first that finds one ready, which takes a while where the machine has much to do."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            box = await make(engine, resources=resources)
            if re.search("upperdir=(spare|mnt/v)/r", await out(box, "cat /proc/self/mountinfo")):
                return box
            await box.close()
            await asyncio.sleep(0.02)  # made while nobody waits


@pytest.mark.native
@pytest.mark.parametrize("disk_mb", [None, pytest.param(64, marks=needs_btrfs)])
async def test_a_sandbox_in_a_room_is_like_any_other(
    engine: NativeEngine, disk_mb: int | None
) -> None:
    limits = Resources(memory_mb=256, pids=64, disk_mb=disk_mb)
    first, second = await in_a_room(engine, limits), await in_a_room(engine, limits)
    for box in (first, second):
        assert set(box.limits_enforced) == {"memory", "pids", *(("disk",) if disk_mb else ())}
        # Its init and the shell are all that runs.
        assert await out(box, "hostname; id -u; set -- /proc/[0-9]*; echo $#; ls /tmp") == (
            "sandbox\n0\n2\n"
        )
        assert await python(box, REACH_ONESELF) == "hi"
        assert psutil.Process(box.init_pid).uids().real == box.uid_base
    await out(first, "echo mine > /tmp/mine; echo mine > /usr/mine; touch /dev/shm/mine")
    assert await out(second, "cat /tmp/mine /usr/mine /dev/shm/mine 2>/dev/null; true") == ""
    assert (second.scratch / "u").stat().st_uid == second.uid_base
    for kind in ("mnt", "net", "ipc", "uts", "pid", "user"):
        pids = (first.init_pid, second.init_pid, os.getpid())
        spaces = [Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in pids]
        assert len(set(spaces)) == 3, kind
    (fork,) = await first.fork(1)
    assert (await fork.exec(["cat", "/tmp/mine", "/usr/mine"])).stdout == b"mine\nmine\n"


@pytest.mark.native
async def test_without_its_maker_the_launcher_makes_all_itself(
    engine: NativeEngine, tmp_path: Path
) -> None:
    await in_a_room(engine, Resources())
    below = psutil.Process().children(recursive=True)
    makers = {process.pid: process for process in below if process.name() == "rollout-make"}
    # What it is making at this moment has its name, too.
    (maker,) = (process for process in makers.values() if process.ppid() not in makers)
    os.kill(maker.pid, signal.SIGKILL)
    await until_empty(lambda: psutil.pid_exists(maker.pid), "not reaped")
    for _ in range(2 * MOST):
        box = await make(engine)
        assert await out(box, "echo up") == "up\n"
        await box.close()
    (owner,) = (tmp_path / "owners").iterdir()
    await until_empty(lambda: list((owner / "spare").glob("r*")), "folders of rooms")


@pytest.mark.native
async def test_rooms_that_are_given_up_leave_nothing(engine: NativeEngine, tmp_path: Path) -> None:
    box = await in_a_room(engine, Resources())
    (owner,) = (tmp_path / "owners").iterdir()
    async with asyncio.timeout(PATIENCE_S):
        while len(list((owner / "spare").glob("r*"))) < MOST:
            await (await make(engine)).close()
            await asyncio.sleep(0.02)
    boxes = [box, *[await make(engine, resources=Resources(pids=9)) for _ in range(60)]]
    # All 64 ranges but those of rooms are taken: the rest is had by giving these up.
    boxes += [await make(engine, resources=Resources(pids=9)) for _ in range(3)]
    assert len({box.uid_base for box in boxes}) == 64
    await until_empty(lambda: list((owner / "spare").glob("r*")), "folders of rooms")
