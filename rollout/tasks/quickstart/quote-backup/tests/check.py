"""Checks of quote-backup."""

import subprocess
import tempfile
import unittest
from pathlib import Path


def backup(*args, cwd="/"):
    return subprocess.run(
        ["sh", "/app/backup.sh", *args], capture_output=True, text=True, cwd=cwd, timeout=20
    )


class Backup(unittest.TestCase):
    def setUp(self):
        self.box = tempfile.TemporaryDirectory()
        self.addCleanup(self.box.cleanup)
        self.root = Path(self.box.name)
        self.source = self.root / "my files"
        self.source.mkdir()

    def fill(self, *names):
        for name in names:
            (self.source / name).write_text(name)

    def copied(self, folder):
        return {path.name: path.read_text() for path in Path(folder).iterdir()}

    def test_difficult_names(self):
        names = ("a b.txt", "*", "-rf", ".hidden", "..twodots", "two\nlines", "plain", "$HOME")
        self.fill(*names)
        (self.source / "folder").mkdir()
        target = self.root / "new place"
        done = backup(str(self.source), str(target))
        self.assertEqual((done.returncode, done.stdout), (0, "copied 8 files\n"))
        self.assertEqual(self.copied(target), {name: name for name in names})

    def test_empty_folder_and_existing_target(self):
        target = self.root / "old"
        target.mkdir()
        (target / "kept").write_text("kept")
        done = backup(str(self.source), str(target))
        self.assertEqual((done.returncode, done.stdout), (0, "copied 0 files\n"))
        self.assertEqual(self.copied(target), {"kept": "kept"})

    def test_relative_paths(self):
        self.fill("x")
        done = backup("my files", "out/deep", cwd=self.root)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(self.copied(self.root / "out/deep"), {"x": "x"})

    def test_no_such_folder(self):
        self.assertEqual(backup(str(self.root / "nothing"), str(self.root / "t")).returncode, 1)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
