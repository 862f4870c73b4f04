"""Operations under fire: workers and producers are killed, servers emptied and cut off, and every effect is counted.

Run by ``make chaos``; see `chaos.__main__` for what can be chosen. The promise that it looks for holes in: nothing that
was committed is lost, nothing is done twice, and what a dead worker ran is taken up again within the time that was set.
"""
