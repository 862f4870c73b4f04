"""`Cron`: a schedule as a cron expression."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import attrs

from dexpy.foundation.safe_text import shortened
from dexpy.schedules.cron_expressions import CronTimes, check_expression
from dexpy.schedules.schedule import Schedule, check_flag, checked_zone
from dexpy.schedules.wall_clock import moments_after, moments_before, smallest_gap
from dexpy.schedules.zones import zone_of


@attrs.frozen(init=False, repr=False)
class Cron(Schedule):
    """A schedule as a cron expression of five fields: minute, hour, day of the month, month, day of the week.

    If the minute or the hour begins with ``*``, the schedule follows real time: each moment with a matching local time
    is a tick, so ``*/30 * * * *`` has a tick every half hour also when the clock changes.
    Otherwise each local time is one tick: a time that the clock skips has it at the moment of the change, a time that
    it shows twice at the first one.

    Args:
        expression: Five fields, or ``@hourly``, ``@daily``, ``@midnight``, ``@weekly``, ``@monthly``, ``@yearly`` or
            ``@annually``.
        zone: The name of a time zone, ``"Europe/Rome"``; None for the default zone.
        seconds: Whether the expression has six fields, with the seconds first.

    Raises:
        DeclarationError: The expression or the zone is invalid, or there are five years without a tick.
        ConfigurationError: The zone database is not installed.

    Example:
        >>> from datetime import datetime, timezone
        >>> nightly = Cron("0 3 * * *", zone="Europe/Rome")
        >>> nightly.next_after(datetime(2026, 7, 1, 12, tzinfo=timezone.utc)).isoformat()
        '2026-07-02T01:00:00+00:00'
    """

    expression: str
    zone: str | None
    seconds: bool

    def __init__(self, expression: str, *, zone: str | None = None, seconds: bool = False) -> None:
        where = f"Cron({shortened(expression)})"
        check_flag(seconds, f"{where}: seconds")
        instance: Any = self
        instance.__attrs_init__(check_expression(expression, seconds, where), checked_zone(zone, where), seconds)

    def __str__(self) -> str:
        return self.expression

    def __repr__(self) -> str:
        zone = "" if self.zone is None else f", zone={self.zone!r}"
        return f"Cron({self.expression!r}{zone}{', seconds=True' if self.seconds else ''})"

    @property
    def interval(self) -> timedelta:
        """The smallest distance between two ticks, in years without a change of the clock."""
        return smallest_gap(CronTimes(self.expression))

    def describe(self) -> str:
        """Return the meaning as a sentence."""
        return f"{CronTimes(self.expression).explained()} ({self.zone or 'UTC'})."

    def to_json(self) -> str:
        """Return the text that `schedule_from_json` reads: ``cron`` and the expression."""
        return f"{'cron-seconds' if self.seconds else 'cron'} {self.expression}"

    def _after(self, moment: datetime) -> Iterator[datetime]:
        return moments_after(CronTimes(self.expression), zone_of(self.zone), moment)

    def _before(self, moment: datetime) -> Iterator[datetime]:
        return moments_before(CronTimes(self.expression), zone_of(self.zone), moment)

    def _in_zone(self, zone: str) -> Cron:
        return Cron(self.expression, zone=zone, seconds=self.seconds)
