import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Path:
    """A folder of published data sets beside the project, where there is one."""
    root = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[4].parent / "shared") / "data"
    if not root.is_dir():
        pytest.skip("no folder of shared data sets: set MODELWORKS_SHARED")
    return root
