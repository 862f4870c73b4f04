"""Chaos tests: workers and producers are killed, servers are emptied or cut off, and every effect is counted.

Run by ``make chaos``; see `chaos.__main__` for its options. They check that no committed operation is lost, that none
has its effect twice, and that runs of a dead worker are recovered within the configured time.
"""
