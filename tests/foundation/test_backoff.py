"""The pauses between tries."""

from __future__ import annotations

from itertools import islice

import attrs
import pytest

from dexpy.foundation.backoff import Backoff


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    assert list(islice(Backoff(0.1, 5.0), 8)) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_pauses_grow_by_another_factor() -> None:
    assert list(islice(Backoff(0.02, 0.3, factor=1.5), 4)) == pytest.approx([0.02, 0.03, 0.045, 0.0675])


def test_each_iteration_starts_with_the_first_pause() -> None:
    backoff = Backoff(1.0, 4.0)
    assert list(islice(backoff, 2)) == list(islice(backoff, 2)) == [1.0, 2.0]


def test_the_pause_after_very_many_is_the_longest() -> None:
    assert Backoff(0.1, 5.0).pause_s(10**6) == 5.0


def test_a_first_pause_beyond_the_longest_is_cut() -> None:
    assert list(islice(Backoff(10.0, 3.0), 2)) == [3.0, 3.0]


def test_a_backoff_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Backoff(1.0, 2.0).first_s = 3.0  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def test_jitter_leaves_out_a_share_of_each_pause() -> None:
    pauses = list(islice(Backoff(1.0, 1.0, jitter=0.5), 200))
    assert all(0.5 <= pause_s <= 1.0 for pause_s in pauses)
    assert len(set(pauses)) > 100
