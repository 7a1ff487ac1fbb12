"""What a sandbox wrote outside of a workspace is told, and can be left out, on every engine."""

from rollout.sandbox.base import Image, Sandbox, SandboxSpec
from rollout.types import Blueprint, BuildStep, Change, Resources, Tree, Workspace
from tests.sandbox.harness import Bench, shell_in

WORK = "/usr/src/work"
BLUEPRINT = Blueprint(
    steps=(
        BuildStep(op="put", dest="/app", tree=Tree.of({"given": "given\n", "other": "other\n"})),
        BuildStep(op="put", dest=WORK, tree=Tree.of({"given": "given\n"})),
        BuildStep(op="put", dest="/usr/src/beside", tree=Tree.of({"kept": "kept\n"})),
        BuildStep(op="put", dest="/opt/tool", tree=Tree.of({"tool": "tool\n"})),
    )
)
WORKSPACE = Workspace(workdir=WORK, outputs=("/opt/tool/out", "/var/lib/mine"))
LOOK = "cd /; for f in $1; do if test -f $f; then echo $f $(cat $f); else echo $f -; fi; done"


async def left(bench: Bench, script: str, **resources: int) -> tuple[Image, Image]:
    """The image that a sandbox left in which `script` ran, and the one it stood on."""
    wanted = Blueprint(steps=BLUEPRINT.steps, resources=Resources(**resources))
    box = await bench.sandbox(wanted)
    done = await shell_in(box)(script)
    assert done.ok, done.stderr
    below = box.spec.image
    return await box.end_as_image(), below


async def pruned(bench: Bench, script: str, **resources: int) -> Sandbox:
    image, below = await left(bench, script, **resources)
    kept = await bench.engine.keep_only(image, below, WORKSPACE)
    bench.ending.push_async_callback(bench.engine.discard, image)
    bench.ending.push_async_callback(bench.engine.discard, kept)
    return await bench.create(SandboxSpec(image=kept, resources=Resources(**resources)))


async def seen(box: Sandbox, *files: str) -> dict[str, str]:
    done = await box.exec(["sh", "-c", LOOK, "sh", " ".join(files)], cwd="/")
    lines = (line.partition(" ") for line in done.stdout.decode().splitlines())
    return {name: content for name, _, content in lines}


TAMPER = f"""
echo new > /app/new; rm /app/given; echo changed > /app/other; ln -s /etc /app/link
echo new > {WORK}/new; rm {WORK}/given
echo bad > /usr/bin/evil; rm /usr/src/beside/kept; echo bad > /etc/group; rm -rf /etc/os-release
echo bad > /opt/tool/tool; echo good > /opt/tool/out
echo bad > /root/.evil; echo good > /root/work; mkdir -p /home/user/.x /var/lib/mine
echo bad > /home/user/.x/y; echo good > /home/user/work; echo good > /var/lib/mine/file
mkdir -p /tests /logs/verifier; echo x > /tests/x; echo 1 > /logs/verifier/reward.txt
echo bad > /conftest.py
"""
GOOD = {
    **{"/app/new": "new", "/app/given": "-", "/app/other": "changed"},
    **{f"{WORK}/new": "new", f"{WORK}/given": "-", "/usr/src/beside/kept": "kept"},
    **{"/usr/bin/evil": "-", "/opt/tool/tool": "tool", "/opt/tool/out": "good"},
    **{"/root/.evil": "-", "/root/work": "good", "/home/user/.x/y": "-"},
    **{"/home/user/work": "good", "/var/lib/mine/file": "good"},
    **{"/logs/verifier/reward.txt": "-", "/conftest.py": "-"},
}


async def test_the_workspace_is_kept_and_the_system_is_the_images(bench: Bench) -> None:
    box = await pruned(bench, TAMPER)
    assert await seen(box, *GOOD) == GOOD
    fresh = await bench.sandbox(BLUEPRINT)
    system = ("/etc/group", "/etc/os-release")
    assert await seen(box, *system) == await seen(fresh, *system)


async def test_it_is_so_with_disk_limits_and_on_what_others_left(small_disks: Bench) -> None:
    image, _ = await left(small_disks, "echo good > /app/first; echo old > /etc/mine", disk_mb=40)
    limits = Resources(disk_mb=40)
    box = await small_disks.create(SandboxSpec(image=image, resources=limits))
    assert (await shell_in(box)(f"{TAMPER} echo bad > /etc/mine; rm /app/first")).ok
    both = await box.end_as_image()
    kept = await small_disks.engine.keep_only(both, image, WORKSPACE)
    told = await small_disks.engine.changes(both, image, WORKSPACE)
    assert Change(path="/etc/mine", how="changed") in told.entries
    for each in (image, both):
        await small_disks.engine.discard(each)
    last = await small_disks.create(SandboxSpec(image=kept, resources=limits))
    await small_disks.engine.discard(kept)
    expected = {**GOOD, "/app/first": "-", "/etc/mine": "old"}
    assert await seen(last, *expected) == expected


async def test_folders_on_the_way_to_the_work_are_the_images(bench: Bench) -> None:
    script = f"rm -rf /usr/src /opt/tool; mkdir -p {WORK}/sub; echo new > {WORK}/sub/new"
    box = await pruned(bench, f"{script}; echo x > /opt/tool; chmod 700 /usr/src /usr /")
    expected = {
        **{f"{WORK}/sub/new": "new", f"{WORK}/given": "-", "/usr/src/beside/kept": "kept"},
        **{"/opt/tool/tool": "tool", "/app/given": "given"},
    }
    assert await seen(box, *expected) == expected
    if "users" in bench.engine.features:
        as_nobody = await box.exec(["cat", f"{WORK}/sub/new"], user="nobody", cwd="/")
        assert as_nobody.stdout == b"new\n"


async def test_a_link_on_the_way_leads_nowhere(bench: Bench) -> None:
    box = await pruned(
        bench, "mkdir /app/work; echo bad > /app/work/given; rm -rf /usr/src; ln -s /app /usr/src"
    )
    expected = {f"{WORK}/given": "given", "/usr/src/beside/kept": "kept"}
    assert await seen(box, *expected) == expected


async def test_what_is_outside_is_told(bench: Bench) -> None:
    image, below = await left(bench, TAMPER)
    told = await bench.engine.changes(image, below, WORKSPACE)
    await bench.engine.discard(image)
    found = {(change.path, change.how, change.kind) for change in told.entries}
    assert found >= {
        ("/usr/bin/evil", "added", "file"),
        ("/usr/src/beside/kept", "removed", "none"),
        ("/etc/group", "changed", "file"),
        ("/opt/tool/tool", "changed", "file"),
        ("/root/.evil", "added", "file"),
        ("/tests", "added", "dir"),
        ("/logs/verifier/reward.txt", "added", "file"),
        ("/conftest.py", "added", "file"),
    }
    assert not told.more
    paths = {path for path, _, _ in found}
    assert not paths & {"/app/new", f"{WORK}/new", "/opt/tool/out", "/root/work", "/home/user/work"}


async def test_who_does_nothing_changes_nothing(bench: Bench) -> None:
    image, below = await left(bench, "true")
    assert (await bench.engine.changes(image, below, WORKSPACE)).entries == ()
    await bench.engine.discard(image)
