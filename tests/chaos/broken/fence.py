"""No fence: `done` is written whoever holds the claim by now, and whatever has become of the row."""

from chaos.broken.anyway import applying_anyway
from dexpy.recording import recorder

recorder.apply = applying_anyway("succeed")  # type: ignore[attr-defined]
