"""Chaos tests: kill workers and producers, empty or cut off servers, and count every effect.

Run by ``make chaos``; see `chaos.__main__` for its options. They check that no committed operation is lost, that none
has its effect twice, and that runs of a dead worker are recovered within the configured time.
"""
