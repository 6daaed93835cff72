"""A site of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kernel.dataspace.sources.surroundings import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        yield made
