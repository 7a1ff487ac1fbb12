"""Sum up sales by region."""

import csv
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

orders, revenue = defaultdict(int), defaultdict(Decimal)
with Path("/app/sales.csv").open(newline="") as file:
    for row in csv.DictReader(file):
        if row["units"]:
            region = row["region"].strip().capitalize()
            orders[region] += 1
            revenue[region] += int(row["units"]) * Decimal(row["price"])
with Path("/app/totals.csv").open("w", newline="") as file:
    file.write("region,orders,revenue\n")
    for region in sorted(orders):
        total = revenue[region].quantize(Decimal("0.01"), ROUND_HALF_UP)
        file.write(f"{region},{orders[region]},{total}\n")
