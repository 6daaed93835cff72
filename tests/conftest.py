"""What holds for every test of this project."""

from __future__ import annotations

import signal

import pytest

# A shell that starts a command in the background has it ignore interrupts, and every child inherits that: the tests that
# press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share one simulated cluster run in one process: two clusters would not fit on a small machine."""
    for item in items:
        if item.get_closest_marker("cluster") is not None and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("cluster"))
