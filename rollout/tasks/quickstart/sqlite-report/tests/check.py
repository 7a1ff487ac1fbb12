"""Checks of sqlite-report."""

import sqlite3
import unittest
from pathlib import Path

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, placed TEXT, state TEXT);
CREATE TABLE items ("order" INTEGER, product TEXT, quantity INTEGER, price INTEGER);
"""
ROWS = """
INSERT INTO customers VALUES (1, 'Zoe'), (2, 'Bob'), (3, 'Bob'), (4, 'Eve'), (5, 'Max'), (6, 'Ann');
INSERT INTO orders VALUES
    (1, 1, '2026-03-01', 'sent'), (2, 1, '2025-12-24', 'open'), (3, 2, '2026-01-01', 'sent'),
    (4, 3, '2026-01-02', 'open'), (5, 4, '2026-01-03', 'cancelled'), (6, 5, '2026-02-02', 'open'),
    (7, 1, '2026-04-01', 'cancelled'), (8, 6, '2026-01-09', 'sent');
INSERT INTO items VALUES
    (1, 'a', 2, 10), (1, 'b', 1, 5), (2, 'a', 1, 10), (3, 'c', 1, 7), (4, 'c', 4, 7),
    (5, 'd', 9, 9), (7, 'a', 99, 99), (8, 'c', 4, 7);
"""
EXPECTED = [
    ("Zoe", 2, 35, "2026-03-01"),
    ("Ann", 1, 28, "2026-01-09"),
    ("Bob", 1, 28, "2026-01-02"),
    ("Bob", 1, 7, "2026-01-01"),
    ("Max", 1, 0, "2026-02-02"),
]


class Report(unittest.TestCase):
    def setUp(self):
        self.shop = sqlite3.connect(":memory:")
        self.addCleanup(self.shop.close)
        self.shop.executescript(SCHEMA)
        self.query = Path("/app/query.sql").read_text()

    def test_rows(self):
        self.shop.executescript(ROWS)
        self.assertEqual(self.shop.execute(self.query).fetchall(), EXPECTED)

    def test_columns_of_an_empty_shop(self):
        answer = self.shop.execute(self.query)
        self.assertEqual([column[0] for column in answer.description], COLUMNS)
        self.assertEqual(answer.fetchall(), [])


COLUMNS = ["name", "orders", "spent", "last"]


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    passed = result.wasSuccessful() and not result.skipped
    Path("/logs/verifier/reward.txt").write_text(f"{int(passed)}\n")
