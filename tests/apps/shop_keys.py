"""Operations of the shop for the tests of `Once` and `Unique`.

Usage: python shop_keys.py FOLDER POINTS NAME ORDER

This calls the operation NAME in place and prints its result. POINTS are those of ``harness/die_at_failpoints.py``.

Usage: python shop_keys.py NAME

This prints a line before it enqueues the operation NAME, and then whether the call was a duplicate.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from apps.shop import ShopOperation, create_tables
from dexpy import Error, Once, Unique
from dexpy.foundation import failpoints as points
from dexpy.foundation.failpoints import failpoint

__all__ = ["Charge", "Decline", "Fail", "Open", "Reindex", "ReindexWithToken", "create_tables"]


class Charge(ShopOperation):
    """Writes one effect per key."""

    order: int
    once = Once("order", wait=20)

    def perform(self) -> str:
        failpoint("perform_started")
        self.note(f"charge {self.order}")
        self.session.flush()
        failpoint("in_perform")
        return f"charged by {os.getpid()}"


class Fail(Charge):
    """Fails in its first attempt."""

    def perform(self) -> str:
        super().perform()
        if not Path(f"failed-{self.order}").exists():
            Path(f"failed-{self.order}").touch()
            raise RuntimeError("not this time")
        return "done"


class Decline(Charge):
    """Fails with a business error."""

    def perform(self) -> str:
        super().perform()
        raise Error("declined", f"by {os.getpid()}", details={"order": self.order})


class Reindex(ShopOperation):
    """Has a unique key per shop."""

    shop: int
    unique = Unique("shop")

    def perform(self) -> int:
        self.note(f"reindex {self.shop}")
        self.session.flush()
        failpoint("in_perform")
        return self.shop


class Open(Reindex):
    """Has a unique key per shop until its start."""

    unique = Unique("shop", until="started")


class ReindexWithToken(ShopOperation):
    """Has a unique key per shop, and is enqueued with an idempotence token."""

    def perform(self) -> None:
        self.note("reindex")


def enqueue(name: str, session: Any = None) -> Any:
    """Enqueue the operation of a name; each call has the same key."""
    if name == "Charge":
        return Charge(order=1).async_(session=session).call()
    if name == "Reindex":
        return Reindex(shop=1).async_(session=session).call()
    return ReindexWithToken().async_(session=session, idempotence_token="the one").call()


def call(folder: str, at: str, name: str, order: str) -> str:
    """Call an operation in place, with failpoints at which this process is killed or waits."""
    from harness.die_at_failpoints import FailpointActions

    points.reached = FailpointActions(Path(folder), at).reach
    kinds: dict[str, type[Charge]] = {kind.__name__: kind for kind in (Charge, Fail, Decline)}
    try:
        return kinds[name](order=int(order)).call()
    except Error as error:
        return f"{error.code}: {error.message} {error.details}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    from apps import shop_keys

    if len(sys.argv) == 2:
        print("enqueueing", flush=True)
        print("answer", shop_keys.enqueue(sys.argv[1]).duplicate, flush=True)
    else:
        print("answer", shop_keys.call(*sys.argv[1:]), flush=True)
