"""No claim: every delivery of a message starts a run, whatever the status of the row, without counting the attempt."""

from chaos.broken.anyway import apply_anyway
from dexpy.worker import claims

apply_anyway(claims, "claim", without=("claim_token", "num_attempts"))
