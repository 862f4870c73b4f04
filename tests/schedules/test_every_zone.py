"""No tick is lost or doubled in any time zone: schedules beside a model that walks through the minutes of UTC.

``make schedules`` runs all zones and all changes of five years; ``make test`` the kinds of changes that exist.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from zone_model import UTC, YEARS, ZONES, changes_of, forwards, kind_of, wrong_ticks

from dexpy.schedules.cron import Cron
from dexpy.schedules.zones import changes_in_year

KINDS = {
    "Africa/Cairo": {("00:00", "01:00"), ("00:00", "23:00")},
    "America/Havana": {("00:00", "01:00"), ("01:00", "00:00")},
    "America/Nuuk": {("23:00", "00:00"), ("00:00", "23:00")},
    "Antarctica/Troll": {("01:00", "03:00"), ("03:00", "01:00")},
    "Asia/Kathmandu": set(),
    "Australia/Lord_Howe": {("02:00", "02:30"), ("02:00", "01:30")},
    "Europe/Athens": {("03:00", "04:00"), ("04:00", "03:00")},
    "Europe/Dublin": {("01:00", "02:00"), ("02:00", "01:00")},
    "Europe/Rome": {("02:00", "03:00"), ("03:00", "02:00")},
    "Pacific/Chatham": {("02:45", "03:45"), ("03:45", "02:45")},
    "Pacific/Easter": {("22:00", "23:00"), ("22:00", "21:00")},
}
"""Zones, and the changes of their clocks in a year."""
FIRST_YEAR = range(YEARS.start, YEARS.start + 1)


@pytest.mark.parametrize("name", KINDS)
def test_ticks_around_each_kind_of_change_are_those_of_the_model(name: str) -> None:
    zone = ZoneInfo(name)
    assert {kind_of(zone, change) for change in changes_of(zone, FIRST_YEAR)} == KINDS[name]
    assert wrong_ticks(name, FIRST_YEAR) == []


@pytest.mark.zones
@pytest.mark.parametrize("name", ZONES)
def test_ticks_around_every_change_of_five_years_are_those_of_the_model(name: str) -> None:
    assert wrong_ticks(name, YEARS) == []


@pytest.mark.zones
@pytest.mark.timeout(600)
def test_the_short_test_has_every_kind_of_change() -> None:
    zones = [ZoneInfo(name) for name in ZONES]
    kinds = {kind_of(zone, change) for zone in zones for change in changes_of(zone, YEARS)}
    assert kinds == set().union(*KINDS.values())


@pytest.mark.zones
@pytest.mark.parametrize("name", ZONES)
def test_the_changes_of_a_zone_are_found(name: str) -> None:
    zone = ZoneInfo(name)
    assert [change for year in YEARS for change in changes_in_year(zone, year)] == changes_of(zone, YEARS)


@pytest.mark.parametrize(("name", "count"), [("Europe/Rome", 40), ("Australia/Lord_Howe", 48)])
def test_a_rare_schedule_in_real_time_is_right_across_the_changes_of_a_year(name: str, count: int) -> None:
    zone, quarter = ZoneInfo(name), timedelta(minutes=15)
    start, end = datetime(2026, 1, 2, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    schedule = Cron("*/15 4-5 1,20 JAN,JUL,NOV *", zone=name)
    moments = (start + quarter * number for number in range(1, (end - start) // quarter + 1))
    expected = [
        moment
        for moment in moments
        if (local := moment.astimezone(zone)).hour in (4, 5) and local.day in (1, 20) and local.month in (1, 7, 11)
    ]

    assert len(expected) == count
    assert schedule.ticks_between(start, end, limit=1000) == expected


def test_the_model_finds_a_tick_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    import zone_model

    def without_the_first(*arguments: object) -> list[datetime]:
        return forwards(*arguments)[1:]  # type: ignore[arg-type]

    monkeypatch.setattr(zone_model, "forwards", without_the_first)
    assert len(wrong_ticks("Asia/Kathmandu", FIRST_YEAR)) >= 9
