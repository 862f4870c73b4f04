"""The second of two applications that share a queue; it stores orders."""

from dexpy import Operation


class TakeOrder(Operation):
    """Store an order."""

    n: int

    def perform(self) -> int:
        return self.n
