"""Disables the fence: `done` is written without a check of the claim and the status of the row."""

from chaos.broken.anyway import apply_anyway
from dexpy.recording import recorder

apply_anyway(recorder, "succeed")
