"""Advisory locks, one file per backend."""
