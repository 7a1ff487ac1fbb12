"""The doctor's findings for a terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rollout.doctor.base import Finding, Level
from rollout.report.render import text

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def checkup(findings: Sequence[Finding]) -> RenderableType:
    """One line for each finding, and below it what to change, if anything."""
    made = Table.grid(padding=(0, 2))
    for finding in findings:
        level = Text(finding.level.value, style=STYLES[finding.level])
        made.add_row(level, text(finding.name), text(finding.seen))
        if finding.change:
            made.add_row("", "", text(f"→ {finding.change}"))
    return made
