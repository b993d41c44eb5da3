"""The token bucket: what passes in a time, and who is stopped."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioloop import Rate
from trioloop._wire import TokenBucket

steps = st.lists(st.tuples(st.integers(0, 64), st.integers(1, 5)), max_size=50)


@given(steps=steps, rate=st.integers(1, 8), burst=st.integers(1, 4))
def test_never_more_than_rate_times_burst_and_the_time_passes(steps, rate, burst):
    bucket, now, passed = TokenBucket(rate, burst, 0.0), 0.0, 0
    for eighths, amount in steps:
        now += eighths / 8
        if bucket.take(amount, now):
            passed += amount
        assert passed <= rate * (burst + now) + 5  # one message may be more than what is left


@given(amounts=st.lists(st.integers(1, 8), max_size=50), burst=st.integers(1, 4))
def test_who_keeps_to_the_rate_is_never_stopped(amounts, burst):
    bucket, now = TokenBucket(8, burst, 0.0), 0.0
    for amount in amounts:
        now += amount / 8
        assert bucket.take(amount, now)


def test_more_than_the_bucket_holds_passes_when_it_is_full_and_is_made_good():
    bucket = TokenBucket(1.0, 2.0, 0.0)
    assert bucket.take(10, 0.0)
    assert not bucket.take(1, 8.0)
    assert bucket.take(1, 9.0)


def test_an_infinite_rate_lets_everything_pass():
    bucket = TokenBucket(math.inf, 1.0, 0.0)
    assert all(bucket.take(10**9, 0.0) for _ in range(10))


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Rate(messages=0), ValueError),
        (lambda: Rate(bytes=-1), ValueError),
        (lambda: Rate(burst=math.nan), ValueError),
        (lambda: Rate(messages="1"), TypeError),
        (lambda: Rate(bytes=True), TypeError),
    ],
)
def test_an_impossible_rate_is_refused_when_it_is_made(make, error):
    with pytest.raises(error):
        make()
