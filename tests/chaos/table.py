"""The table of a run and its result line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos.audit import Wait
from chaos.director import AT_LEAST
from chaos.run import Finding
from chaos.scenario import HARM, RECOVER_WITHIN_S

MESSAGES_AT_MOST = 1.2
"""The limit of messages for each start of an attempt: the first one, and one after each retry and recovery."""
WIDTH = 46
BROKEN = "BROKEN:"

Row = tuple[str, str, bool]
"""A label, its figure, and whether the figure is as expected."""


def rows(finding: Finding) -> Iterator[Row]:
    """Return the lines of the table."""
    count, scenario = finding.count, finding.scenario
    committed = len(count.committed)
    yield (
        "operations committed",
        f"{committed} (minimum {scenario.min_operations})",
        committed >= scenario.min_operations,
    )
    yield "done, counted by their effects", str(count.done), True
    yield "failed as intended, without effect", str(count.failed_as_meant), True
    yield from _kills(finding)
    yield "workers frozen past their lease, then resumed", str(len(finding.freezes)), True
    yield "workers stopped by TERM during runs", str(finding.deploys), True
    if finding.stage.empty is not None:
        yield "broker emptied", str(len(finding.emptied)), len(finding.emptied) >= scenario.plan.empties
    if finding.stage.shake is not None:
        away = ", ".join(f"{until - since:.1f} s" for since, until in finding.stage.outages)
        times = len(finding.stage.outages)
        yield finding.stage.shake_is, f"{times} ({away})", times >= scenario.plan.shakes
    yield "lost", str(len(count.lost)), not count.lost
    yield "doubled", str(len(count.doubled)), not count.doubled
    yield "effects of failed or rolled-back runs", str(len(count.ghosts)), not count.ghosts
    yield "committed, missing in the database", str(len(count.vanished)), not count.vanished
    yield "done without the call to the service", str(len(count.unsaid)), not count.unsaid
    yield "calls to the service, all attempts", str(count.attempts), True
    yield "missing in the accounts", str(count.unpaid), not count.unpaid
    yield "record and effect disagree", str(len(count.disagreeing)), not count.disagreeing
    yield "not ended, of these running", f"{len(count.not_final)}, {len(count.running)}", not count.not_final
    yield from _waits(f"recoveries ({len(count.recoveries)}), longest, in seconds", count.recoveries)
    yield from _waits("waits for the first claim, longest", count.waits)
    yield "recovered from workers without a fault", str(len(count.unprovoked)), True
    yield from _messages(finding)
    for name, number in finding.remains.items():
        yield f"left: {name}", str(number), number == 0
    for oddity in finding.oddities:
        yield "unexpected", oddity, False


def _waits(label: str, waits: list[Wait]) -> Iterator[Row]:
    late = sum(wait.is_late(RECOVER_WITHIN_S) for wait in waits)
    longest = max((wait.seconds for wait in waits), default=0.0)
    queued = max((wait.queued for wait in waits), default=0.0)
    of_one_fault = max((wait.seconds for wait in waits if wait.faults <= 1), default=0.0)
    yield label, f"{longest:.2f} (the queue alone: up to {queued:.2f})", True
    yield "  of runs with at most one fault", f"{of_one_fault:.2f}", True
    yield f"  later than the queue and {RECOVER_WITHIN_S:g} s for each fault", str(late), not late


def _kills(finding: Finding) -> Iterator[Row]:
    kills, planned = len(finding.deaths), finding.scenario.plan.kills
    yield "kills", f"{kills} (planned {planned})", kills >= planned
    places = Counter(death.place for death in finding.deaths)
    for place, share in AT_LEAST.items() if finding.scenario.control is None else ():
        number = sum(times for name, times in places.items() if name.startswith(place))
        if number < share * kills:
            yield f"  {place}: too few", str(number), False
    for place, number in sorted(places.items(), key=lambda item: -item[1]):
        yield f"  {place}", str(number), True


def _messages(finding: Finding) -> Iterator[Row]:
    count = finding.count
    if not count.committed:
        return
    num_messages = count.sends + count.redeliveries
    yield "messages published, redelivered", f"{count.sends}, {count.redeliveries}", True
    yield "messages for each operation", f"{num_messages / len(count.committed):.3f}", True
    each = num_messages / count.turns
    is_good = each <= MESSAGES_AT_MOST
    yield f"messages for each of {count.turns} expected starts", f"{each:.3f} (at most {MESSAGES_AT_MOST})", is_good


def show(finding: Finding) -> str:
    """Print the table of a run.

    Returns:
        The result line; see `is_good`.
    """
    scenario = finding.scenario
    title = f"{finding.stage.pair}, {scenario.plan.seconds:g} s"
    if scenario.control:
        title += f", {'without' if scenario.broken else 'with'} the {scenario.control}"
    print(f"\n{title}\n")
    table_rows = list(rows(finding))
    for label, figure, is_right in table_rows:
        print(f"  {label:<{WIDTH}} {figure}{'' if is_right or scenario.control else '   <-- BROKEN'}")
    print(f"  {'seconds until all had ended':<{WIDTH}} {finding.seconds:.1f}")
    if scenario.control:
        summary = _of_control(finding, scenario.control)
    else:
        bad = [f"{label.strip()}: {figure}" for label, figure, is_right in table_rows if not is_right]
        summary = f"{BROKEN} {'; '.join(bad)}" if bad else "Good."
    if finding.stories and not scenario.broken:
        print("\n" + "\n".join(finding.stories))
    print(f"\n  {summary}", flush=True)
    return f"{title}: {summary}"


def _of_control(finding: Finding, promise: str) -> str:
    """Return the result line: the expected harm without the guarantee, or none with it."""
    harm = {"lost": finding.count.lost, "doubled": finding.count.doubled}
    summary = ", ".join(f"{len(keys)} {kind}" for kind, keys in harm.items())
    if not finding.scenario.broken:
        return f"{BROKEN} {summary}" if any(harm.values()) else "As expected: no harm."
    if not harm[HARM[promise]]:
        return f"{BROKEN} {summary}: harm was expected, so the audit does not detect it."
    return f"As expected: {summary}."


def is_good(decision: str) -> bool:
    """Whether a run had the expected result, by its result line."""
    return BROKEN not in decision
