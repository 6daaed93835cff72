"""A data space to ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.spaces.library import PRINTER, Library


@pytest.fixture
async def library(stage: Stage) -> AsyncIterator[Library]:
    """A space with a handbook and without a language model."""
    async with AsyncExitStack() as stack:
        made = Library(stage, stack)
        await made.open()
        made.add("x200.pdf", *PRINTER)
        yield made


@pytest.fixture
async def written(stage: Stage) -> AsyncIterator[Library]:
    """The same with the language model `writer`."""
    async with AsyncExitStack() as stack:
        made = Library(stage, stack)
        await made.open(language_model="writer")
        made.add("x200.pdf", *PRINTER)
        yield made
