"""The patterns of the queues of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from dexpy.configuration.kinds import InvalidSetting, Queues
from dexpy.errors import OptionsError
from dexpy.policies.queue_selection import QueueSelection


def test_the_first_pattern_that_matches_a_queue_is_its_place() -> None:
    selection = QueueSelection.of(["critical", "mail_eu", "mail*", "*"])
    assert [selection.rank(name) for name in ("critical", "mail_eu", "mail", "mail_us", "default")] == [0, 1, 2, 2, 3]
    assert selection.names == ("critical", "mail_eu")
    assert str(selection) == "critical,mail_eu,mail*,*"


def test_a_selection_contains_the_queues_of_its_patterns() -> None:
    selection = QueueSelection.of(["critical", "mail*"])
    assert [name in selection for name in ("critical", "mail", "mail_eu", "email", "default", 7)] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert selection.rank("default") == 2


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        (["*", "critical"], "'critical' has no effect, because the earlier '*' matches its queues"),
        (["mail*", "mail_eu"], "'mail_eu' has no effect, because the earlier 'mail*'"),
        (["mail*", "mail_eu*"], "'mail_eu*' has no effect"),
        (["critical", "critical"], "'critical' has no effect"),
        (["a*b"], "invalid pattern 'a*b'; expected a name, prefix* or *, with the * at the end"),
        (["**"], "invalid pattern '**'"),
        (["*mail"], "invalid pattern '*mail'"),
        (["no queue"], "invalid queue name 'no queue'"),
        ([""], "invalid queue name ''"),
        ([7], "expected a queue name, prefix* or *, got 7"),
    ],
)
def test_an_unusable_pattern_is_one_clear_error(patterns: list[Any], problem: str) -> None:
    with pytest.raises(OptionsError) as error:
        QueueSelection.of(patterns)
    assert problem in str(error.value)
    with pytest.raises(InvalidSetting):
        Queues().from_file(patterns)
    if all(isinstance(pattern, str) for pattern in patterns):
        with pytest.raises(InvalidSetting):
            Queues().from_text(",".join(patterns))


@pytest.mark.parametrize("patterns", ["critical,default", "mail*", "critical,mail*,*", "mail_eu,mail*"])
def test_a_setting_is_displayed_as_it_was_written(patterns: str) -> None:
    kind = Queues()
    assert kind.display(kind.from_text(patterns)) == patterns
    assert kind.from_file(patterns.split(",")) == kind.from_text(patterns)


def test_the_pattern_of_all_queues_alone_has_no_order() -> None:
    assert Queues().from_text("*") is None
