"""One of two applications that share a queue: it stores orders."""

from dexpy import Operation


class TakeOrder(Operation):
    """Takes an order."""

    n: int

    def perform(self) -> int:
        return self.n
