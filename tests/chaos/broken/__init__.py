"""dexpy with one promise taken out, for workers that import one of these modules: what the count is worth shows."""
