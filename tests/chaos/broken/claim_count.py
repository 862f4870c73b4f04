"""No claim: a run begins with every delivery of its message, whatever has become of the row, and is not counted."""

from chaos.broken.anyway import applying_anyway
from dexpy.background import claims

claims.apply = applying_anyway("claim", without=("claim_token", "num_attempts"))  # type: ignore[attr-defined]
