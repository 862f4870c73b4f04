"""Measurements: dexpy beside what it stands on, in one run."""
