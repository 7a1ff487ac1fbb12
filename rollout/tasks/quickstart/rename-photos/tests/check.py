"""Checks of rename-photos."""

import unittest
from pathlib import Path

EXPECTED = {
    "2026-01-04 10.15.00.jpg": "snow\n",
    "2026-01-04 17.30.02.jpg": "fire\n",
    "beach day/2025-07-19 09.00.00.jpg": "sand\n",
    "notes.txt": "keep me\n",
    "IMG_2026_broken.jpg": "odd\n",
}


class Photos(unittest.TestCase):
    def test_names_and_contents(self):
        root = Path("/app/photos")
        found = {
            path.relative_to(root).as_posix(): path.read_text()
            for path in root.rglob("*")
            if path.is_file()
        }
        self.assertEqual(found, EXPECTED)


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
