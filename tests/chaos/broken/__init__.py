"""Modules that disable one guarantee of dexpy in workers that import them, to prove that the audit detects it."""
