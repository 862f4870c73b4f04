"""The fixtures of tests on each database."""

from harness.database_fixtures import database_url, engine, isolated_runtime, reused_databases

__all__ = ["database_url", "engine", "isolated_runtime", "reused_databases"]
