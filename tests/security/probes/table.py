"""All probes: importing their modules fills the table."""

from tests.security.probes import (
    calls,
    files,
    inside,
    kernel,
    network,
    outside,
    privileges,
    settings,
)
from tests.security.probes.probe import ABSENT, ESCAPED, PROBES, REFUSED, attempt, call

__all__ = ["ABSENT", "ESCAPED", "PROBES", "REFUSED", "attempt", "call"]

assert all((calls, files, inside, kernel, network, outside, privileges, settings))
