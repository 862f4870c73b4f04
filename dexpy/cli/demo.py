"""``dexpy demo``."""
