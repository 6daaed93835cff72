"""Heavy modules come in without collections, and leave the collector as it was."""

import gc
import sys
from pathlib import Path

import pytest

from modelworks.kernel.base.imports import importing

SOURCE = """
import gc

was_enabled = gc.isenabled()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "brought_in_by_a_test"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_nothing_is_collected_while_a_module_comes_in(module: str) -> None:
    with importing(module):
        assert __import__(module).was_enabled is False
    assert gc.isenabled()
    # The second time there is nothing to bring in.
    with importing(module):
        assert gc.isenabled()


def test_a_failing_import_leaves_the_collector_on(module: str) -> None:
    with pytest.raises(ModuleNotFoundError), importing(module):
        raise ModuleNotFoundError(module)
    assert gc.isenabled()
    gc.disable()
    try:
        with importing(module):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
