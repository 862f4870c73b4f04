"""Schedules from text: of a configuration file, and of a column of the database."""

from __future__ import annotations

import re

from dexpy.foundation.errors import DeclarationError
from dexpy.foundation.safe_text import shortened
from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every

STORED_CRON = re.compile(r"(cron(?:-seconds)?)\s+(.*)", re.IGNORECASE | re.DOTALL)
CRON_FIELD = re.compile(r"[0-9*/,-]+", re.ASCII)


def parse_schedule(text: str, *, zone: str | None = None) -> Every | Cron:
    """Return the schedule of a text in a configuration file.

    Args:
        text: A phrase, ``"every 15 minutes"``, or a cron expression, ``"0 3 * * *"``; also ``"cron 0 3 * * *"``, and
            ``"cron-seconds 0 0 3 * * *"`` with seconds.
        zone: The name of a time zone; None for the default zone.

    Raises:
        DeclarationError: The text or the zone is invalid.
        ConfigurationError: The zone database is not installed.

    Example:
        >>> parse_schedule("every 15 minutes"), parse_schedule("0 3 * * *")
        (Every('every 15 minutes'), Cron('0 3 * * *'))
    """
    if not isinstance(text, str):
        raise DeclarationError(
            f"schedule={shortened(text)}: expected a text, got {type(text).__name__}. "
            "Write 'every 15 minutes' or '0 3 * * *'."
        )
    if stored := STORED_CRON.fullmatch(text.strip()):
        return Cron(stored[2], zone=zone, seconds=stored[1].lower() == "cron-seconds")
    words = text.split(None, 2)
    # "15 minutes" begins with a number too; the second field of an expression has no letters either.
    is_cron = text.lstrip().startswith("@") or (len(words) > 1 and all(map(CRON_FIELD.fullmatch, words[:2])))
    return Cron(text, zone=zone) if is_cron else Every(text, zone=zone)


def schedule_from_json(text: str, *, zone: str | None = None) -> Every | Cron:
    """Return the schedule that `to_json` has written.

    Args:
        text: The text.
        zone: The stored zone of the schedule.

    Raises:
        DeclarationError: The text or the zone is invalid.
        ConfigurationError: The zone database is not installed.

    Example:
        >>> schedule_from_json(Cron("@daily").to_json(), zone="Europe/Rome")
        Cron('@daily', zone='Europe/Rome')
    """
    return parse_schedule(text, zone=zone)
