"""All drills: importing their modules fills the table."""

from tests.security.drills import bombs, endings, floods
from tests.security.drills.drill import CONTAINED, DRILLS, Stage, do_all

__all__ = ["CONTAINED", "DRILLS", "Stage", "do_all"]

assert all((bombs, endings, floods))
