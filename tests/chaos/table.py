"""The table of a run, and its result line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos.audit import Wait
from chaos.director import AT_LEAST
from chaos.run import Finding
from chaos.scenario import HARM, RECOVER_WITHIN_S

MESSAGES_AT_MOST = 1.2
"""The limit of messages per wait for a worker: the first, and one more after each retry and recovery."""
WIDTH = 46
BROKEN = "BROKEN:"

Row = tuple[str, str, bool]
"""What, the figure, and whether it is as it should be."""


def rows(found: Finding) -> Iterator[Row]:
    """The lines of the table."""
    count, scenario = found.count, found.scenario
    committed = len(count.committed)
    yield "operations committed", f"{committed} (asked {scenario.asked})", committed >= scenario.asked
    yield "done, counted by their effects", str(count.done), True
    yield "failed as intended, without effect", str(count.failed_as_meant), True
    yield from _kills(found)
    yield "workers frozen past their lease, then resumed", str(len(found.freezes)), True
    yield "workers stopped by TERM during runs", str(found.deploys), True
    if found.stage.empty is not None:
        yield "broker emptied", str(len(found.emptied)), len(found.emptied) >= scenario.plan.empties
    if found.stage.shake is not None:
        away = ", ".join(f"{until - since:.1f} s" for since, until in found.stage.outages)
        times = len(found.stage.outages)
        yield found.stage.shake_is, f"{times} ({away})", times >= scenario.plan.shakes
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
    yield from _messages(found)
    for name, number in found.left.items():
        yield f"left: {name}", str(number), number == 0
    for oddity in found.oddities:
        yield "unexpected", oddity, False


def _waits(what: str, waits: list[Wait]) -> Iterator[Row]:
    late = sum(wait.is_late(RECOVER_WITHIN_S) for wait in waits)
    longest = max((wait.seconds for wait in waits), default=0.0)
    queued = max((wait.queued for wait in waits), default=0.0)
    of_one_fault = max((wait.seconds for wait in waits if wait.faults <= 1), default=0.0)
    yield what, f"{longest:.2f} (the queue alone: up to {queued:.2f})", True
    yield "  of what was hit once at most", f"{of_one_fault:.2f}", True
    yield f"  later than {RECOVER_WITHIN_S:g} s for each fault, and the queue", str(late), not late


def _kills(found: Finding) -> Iterator[Row]:
    kills, asked = len(found.deaths), found.scenario.plan.kills
    yield "kills", f"{kills} (asked {asked})", kills >= asked
    places = Counter(death.place for death in found.deaths)
    for place, share in AT_LEAST.items() if found.scenario.control is None else ():
        number = sum(times for name, times in places.items() if name.startswith(place))
        if number < share * kills:
            yield f"  {place}: too few", str(number), False
    for place, number in sorted(places.items(), key=lambda item: -item[1]):
        yield f"  {place}", str(number), True


def _messages(found: Finding) -> Iterator[Row]:
    count = found.count
    if not count.committed:
        return
    sent = count.sends + count.redeliveries
    yield "messages published, redelivered", f"{count.sends}, {count.redeliveries}", True
    yield "messages for each operation", f"{sent / len(count.committed):.3f}", True
    each = sent / count.turns
    is_good = each <= MESSAGES_AT_MOST
    yield f"messages for each of {count.turns} turns", f"{each:.3f} (at most {MESSAGES_AT_MOST})", is_good


def show(found: Finding) -> str:
    """Print the table of a run.

    Returns:
        The result line; see `is_good`.
    """
    scenario = found.scenario
    title = f"{found.stage.pair}, {scenario.plan.seconds:g} s"
    if scenario.control:
        title += f", {'without' if scenario.broken else 'with'} the {scenario.control}"
    print(f"\n{title}\n")
    made = list(rows(found))
    for what, figure, is_right in made:
        print(f"  {what:<{WIDTH}} {figure}{'' if is_right or scenario.control else '   <-- BROKEN'}")
    print(f"  {'seconds until all had ended':<{WIDTH}} {found.seconds:.1f}")
    if scenario.control:
        said = _of_control(found, scenario.control)
    else:
        bad = [f"{what.strip()}: {figure}" for what, figure, is_right in made if not is_right]
        said = f"{BROKEN} {'; '.join(bad)}" if bad else "Good."
    if found.stories and not scenario.broken:
        print("\n" + "\n".join(found.stories))
    print(f"\n  {said}", flush=True)
    return f"{title}: {said}"


def _of_control(found: Finding, promise: str) -> str:
    """Whether exactly the expected harm was seen without the guarantee, or none with it."""
    harm = {"lost": found.count.lost, "doubled": found.count.doubled}
    told = ", ".join(f"{len(keys)} {kind}" for kind, keys in harm.items())
    if not found.scenario.broken:
        return f"{BROKEN} {told}" if any(harm.values()) else "As it should be: no harm."
    if not harm[HARM[promise]]:
        return f"{BROKEN} {told}: no harm was seen, and this count is worth nothing."
    return f"As it should be: {told}."


def is_good(decision: str) -> bool:
    """Whether a run had the expected result, by its result line."""
    return BROKEN not in decision
