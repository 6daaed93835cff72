"""Capabilities are found by entry point: real distributions in a folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelworks.contract.errors import InvalidRequest, MissingExtra, NotFound
from modelworks.kernel.catalog import discovery

DECLARATION = """
from pydantic import BaseModel
from modelworks.contract import Capability, Task

class Text(BaseModel):
    text: str

capability = Capability(
    name="{name}",
    summary="Turns text around.",
    package="{package}",
    extra={extra!r},
    tasks=(Task(name="{task}", input=Text, output=Text, predictor="{package}.serve:Reverse"),),
)
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays a distribution with one capability on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    packages: list[str] = []

    def make(package: str, *, name: str, task: str = "reversing", extra: str | None = None, body: str | None = None) -> Path:
        folder = site / package
        folder.mkdir()
        (folder / "__init__.py").touch()
        declared = DECLARATION.format(name=name, package=package, task=task, extra=extra) if body is None else body
        (folder / "capability.py").write_text(declared)
        (folder / "serve.py").write_text("class Reverse:\n    pass\n")
        (folder / "heavy.py").write_text("import library_nobody_has\n")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[modelworks.capabilities]\n{name} = {package}.capability:capability\n")
        packages.append(package)
        discovery.refresh()
        return folder

    yield make
    for module in list(sys.modules):
        if module.partition(".")[0] in packages:
            del sys.modules[module]
    monkeypatch.undo()
    discovery.refresh()


def test_finds_an_installed_capability(install: Install) -> None:
    assert "turner" not in discovery.capabilities()
    install("turner_one", name="turner")
    capability, task = discovery.find_task("turner", "reversing")
    assert (capability.package, task.name) == ("turner_one", "reversing")
    assert discovery.find_task(None, "reversing")[0] is capability
    assert discovery.resolve_import(task.predictor or "").__name__ == "Reverse"  # type: ignore[attr-defined]


def test_one_that_is_asked_for_by_name_comes_alone(install: Install) -> None:
    install("turner_alone", name="turner")
    install("turner_beside", name="beside")
    capability, _ = discovery.find_task("turner", "reversing")
    assert "turner_alone.capability" in sys.modules
    assert "turner_beside.capability" not in sys.modules
    assert discovery.capabilities()["turner"] is capability
    assert "turner_beside.capability" in sys.modules


def test_a_broken_one_does_not_disturb_the_others(install: Install) -> None:
    install("turner_good", name="turner")
    install("turner_broken", name="broken", body="raise RuntimeError('no')")
    install("turner_wrong", name="wrong", body="capability = 3")
    install("turner_other", name="other", body=DECLARATION.format(name="else", package="x", task="t", extra=None))
    assert {"turner"} <= set(discovery.capabilities())
    assert not {"broken", "wrong", "other", "else"} & set(discovery.capabilities())
    assert {"broken", "wrong", "other"} <= set(discovery.broken())
    with pytest.raises(NotFound, match="broken: RuntimeError: no"):
        discovery.find_task("broken", "x")


def test_unknown_names_say_the_known_ones(install: Install) -> None:
    install("turner_names", name="turner")
    with pytest.raises(NotFound) as caught:
        discovery.find_task("turnr", "reversing")
    assert caught.value.error_code == "capability_not_found"
    assert "Did you mean 'turner'?" in (caught.value.hint or "")
    for capability in ("turner", None):
        with pytest.raises(NotFound) as caught:
            discovery.find_task(capability, "reversin")
        assert caught.value.error_code == "task_not_found"
        assert "reversing" in (caught.value.hint or "")


def test_missing_libraries_name_the_extra(install: Install) -> None:
    install("turner_heavy", name="turner", extra="turning")
    with pytest.raises(MissingExtra) as caught:
        discovery.resolve_import("turner_heavy.heavy:Thing")
    assert "library_nobody_has" in caught.value.message
    assert 'pip install "turner-heavy[turning]"' in (caught.value.hint or "")
    for path in ("turner_heavy.nothing:Thing", "no_such_package.x:Thing", "turner_heavy.serve:Nothing"):
        with pytest.raises(NotFound) as missing:
            discovery.resolve_import(path)
        assert missing.value.error_code == "import_not_found"


def test_presets(install: Install) -> None:
    folder = install("turner_presets", name="turner")
    assert discovery.presets("turner") == []
    (folder / "presets.toml").write_text('[tiny]\nsummary = "Small"\nlicence = "mit"\nsource = "hf://org/tiny"\nfree = 1\n')
    tables = discovery.presets("turner")
    (folder / "presets.toml").write_text(
        '[[preset]]\nname = "tiny"\nsummary = "Small"\nlicence = "mit"\nsource = "hf://org/tiny"\nfree = 1\n'
    )
    assert discovery.presets("turner") == tables
    assert (tables[0].name, tables[0].capability, tables[0].source) == ("tiny", "turner", "hf://org/tiny")
    assert discovery.find_preset("turner/tiny") == tables[0]
    assert discovery.find_preset("nothing") is None
    with pytest.raises(NotFound):
        discovery.presets("nothing")
    for text in ("[tiny", '[[preset]]\nsummary = "no name"\n', "[tiny]\nsize_bytes = 'large'\n"):
        (folder / "presets.toml").write_text(text)
        with pytest.raises(InvalidRequest, match="turner"):
            discovery.presets("turner")
        assert discovery.find_preset("turner/tiny") is None
