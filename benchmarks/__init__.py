"""Benchmarks: dexpy beside raw psycopg and raw Dramatiq, in one run."""
