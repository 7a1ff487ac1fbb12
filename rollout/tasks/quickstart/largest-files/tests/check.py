"""Checks of largest-files."""

import subprocess
import tempfile
import unittest
from pathlib import Path


class Largest(unittest.TestCase):
    def setUp(self):
        box = tempfile.TemporaryDirectory()
        self.addCleanup(box.cleanup)
        self.root = Path(box.name) / "some folder"
        for name, size in {
            "b": 10,
            "a": 10,
            "deep/er/big one": 3000,
            "deep/Z": 10,
            ".hidden": 200,
            "-n": 0,
            "100": 9,
        }.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
        (self.root / "link").symlink_to(self.root / "deep/er/big one")
        (self.root / "folder-link").symlink_to("deep")

    def largest(self, count):
        done = subprocess.run(
            ["sh", "/app/largest.sh", str(self.root), str(count)],
            capture_output=True,
            text=True,
            timeout=20,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines()

    def test_first_four(self):
        expected = ["3000\tdeep/er/big one", "200\t.hidden", "10\ta", "10\tb"]
        self.assertEqual(self.largest(4), expected)

    def test_all(self):
        self.assertEqual(self.largest(50)[4:], ["10\tdeep/Z", "9\t100", "0\t-n"])


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
