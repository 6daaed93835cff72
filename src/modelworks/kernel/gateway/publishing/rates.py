"""How often strangers may ask: counted in memory, by whoever and whatever is counted.

All of `/embed` is answered by the first process of a server (see `gateway/forwarding.py`): its memory knows every request.
The method is the generic cell rate algorithm (ITU-T I.371, annex A): one number for each subject, no timers.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from modelworks.contract.errors import RateLimited
from modelworks.kernel.base.clock import Clock

_MINUTE_S: Final = 60.0
#: Subjects that are remembered; beyond that those go first whose time is nearest to being over.
_MAX_SUBJECTS: Final = 20_000


class Rates:
    """Limits per minute. A minute's worth may come at once, and flows back evenly."""

    def __init__(self, clock: Clock, *, max_subjects: int = _MAX_SUBJECTS) -> None:
        self._clock = clock
        self._max_subjects = max_subjects
        #: When what a subject has taken has flowed back, by the monotonic clock.
        self._free_at: dict[str, float] = {}

    def take(self, *limits: tuple[str, int]) -> None:
        """Count one request against each (subject, requests per minute), or against none.

        Raises:
            RateLimited: one of them is used up; `retry_after_s` says for how long.
        """
        now = self._clock.monotonic()
        ends: dict[str, float] = {}
        for subject, per_minute in limits:
            ends[subject] = max(now, self._free_at.get(subject, now)) + _MINUTE_S / per_minute
            # Sums of small numbers are never quite what they should be.
            if (over_s := ends[subject] - now - _MINUTE_S) > 1e-6:
                raise RateLimited("Too many questions at this moment.", hint="Ask again shortly.", retry_after_s=over_s)
        self._free_at |= ends
        if len(self._free_at) > self._max_subjects:
            kept = sorted(self._free_at.items(), key=lambda each: each[1])[self._max_subjects // 2 :]
            self._free_at = {subject: end for subject, end in kept if end > now}


def address_of(client: tuple[str, int] | None) -> str:
    """What stands for a caller's address: a network of 64 bits for IPv6, since one caller has all of it (RFC 6177)."""
    text = "" if client is None else client[0].partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
