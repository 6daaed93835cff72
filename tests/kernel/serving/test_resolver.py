"""Names of upstream servers lead to checked addresses only."""

from __future__ import annotations

import pytest

from modelworks.kernel.serving.resolver import GuardedResolver


async def test_a_name_that_leads_to_this_machine_is_refused() -> None:
    with pytest.raises(OSError, match="localhost"):
        await GuardedResolver([]).resolve("localhost", 80)


async def test_an_allowed_name_gives_its_addresses() -> None:
    found = await GuardedResolver(["localhost"]).resolve("localhost", 8080)
    assert {entry["host"] for entry in found} <= {"127.0.0.1", "::1"}
    assert all(entry["port"] == 8080 and entry["hostname"] == "localhost" for entry in found)
