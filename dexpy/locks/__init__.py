"""Advisory locks, one module for each backend."""
