"""No claim: a run begins with every delivery of its message, whatever has become of the row, and is not counted."""

from chaos.broken.anyway import apply_anyway
from dexpy.worker import claims

apply_anyway(claims, "claim", without=("claim_token", "num_attempts"))
