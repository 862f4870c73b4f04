"""No fence: `done` is written whoever holds the claim by now, and whatever has become of the row."""

from chaos.broken.anyway import apply_anyway
from dexpy.recording import recorder

apply_anyway(recorder, "succeed")
