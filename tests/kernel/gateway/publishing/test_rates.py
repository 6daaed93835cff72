"""How often strangers may ask."""

from __future__ import annotations

import pytest

from modelworks.contract.errors import RateLimited
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.gateway.publishing.rates import Rates, address_of


def test_a_minutes_worth_may_come_at_once_and_flows_back_evenly() -> None:
    clock = FixedClock()
    rates = Rates(clock)
    for _ in range(6):
        rates.take(("a", 6))
    with pytest.raises(RateLimited) as refused:
        rates.take(("a", 6))
    assert refused.value.retry_after_s == pytest.approx(10)
    rates.take(("b", 6))
    clock.advance(10)
    rates.take(("a", 6))
    with pytest.raises(RateLimited):
        rates.take(("a", 6))


def test_what_one_limit_refuses_counts_for_none() -> None:
    rates = Rates(FixedClock())
    rates.take(("narrow", 1))
    for _ in range(5):
        with pytest.raises(RateLimited):
            rates.take(("wide", 2), ("narrow", 1))
    rates.take(("wide", 2))
    rates.take(("wide", 2))
    with pytest.raises(RateLimited):
        rates.take(("wide", 2))


def test_subjects_without_end_take_no_memory_without_end() -> None:
    rates = Rates(FixedClock(), max_subjects=100)
    for number in range(5000):
        rates.take((str(number), 10))
    assert len(rates._free_at) <= 101


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("unix", 0), "unknown"),
        (None, "unknown"),
    ],
)
def test_an_address_is_what_one_caller_has(client: tuple[str, int] | None, counted: str) -> None:
    assert address_of(client) == counted
