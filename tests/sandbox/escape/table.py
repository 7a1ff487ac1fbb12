"""All probes: importing their modules fills the table."""

from tests.sandbox.escape import inside, kernel, outside, privileges, settings
from tests.sandbox.escape.probe import ABSENT, ESCAPED, PROBES, REFUSED, attempt, call

__all__ = ["ABSENT", "ESCAPED", "PROBES", "REFUSED", "attempt", "call"]

assert all((inside, kernel, outside, privileges, settings))
