"""The manifests have the form that their tools expect and name only settings that exist."""

import re
from pathlib import Path

import pytest
import yaml
from tests.architecture.sources import PROJECT, relative

from modelworks.kernel.base.settings import Settings

DEPLOY = PROJECT / "deploy"
YAML = sorted(DEPLOY.rglob("*.yaml"))


@pytest.mark.parametrize("path", YAML, ids=relative)
def test_manifests_are_valid_yaml(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    if path.parent.name == "kubernetes":
        for document in documents:
            assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)


def test_every_setting_that_they_name_exists() -> None:
    known = {f"MODELWORKS_{name.upper()}" for name in Settings.model_fields}
    files = [*YAML, DEPLOY / "Dockerfile", *(PROJECT / "docs" / "howto").glob("*.md")]
    clients = {
        "MODELWORKS_URL",
        "MODELWORKS_API_KEY",
        "MODELWORKS_PROJECT",
        "MODELWORKS_LANG",
        "MODELWORKS_SHARED",
        "MODELWORKS_TEST_POSTGRES_URL",
    }
    # Interpreters and limits of foreign programs, which a capability reads where it starts them.
    read = {
        name
        for source in (PROJECT / "src" / "modelworks" / "capabilities").rglob("*.py")
        for name in re.findall(r'= "(MODELWORKS_[A-Z0-9_]+)"', source.read_text(encoding="utf-8"))
    }
    for path in files:
        named = set(re.findall(r"MODELWORKS_[A-Z0-9_]+", path.read_text(encoding="utf-8")))
        unknown = named - known - clients - read
        assert not unknown, f"{relative(path)}: {sorted(unknown)}"


def test_the_image_copies_what_the_build_needs() -> None:
    copied = re.findall(r"^COPY (.+?) \./", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    names = " ".join(copied).split()
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "src"} <= set(names)
    for name in names:
        assert (PROJECT / name).exists()


def test_versions_agree() -> None:
    from modelworks import __version__

    pyproject = (PROJECT / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in pyproject
    assert f"## {__version__}" in (PROJECT / "CHANGELOG.md").read_text()
    ray = re.search(r"ray\[[^]]*\]==([\d.]+)", pyproject).group(1)
    assert f'rayVersion: "{ray}"' in (DEPLOY / "kubernetes" / "raycluster.yaml").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert pinned["ray"] == ray
    assert pinned["torch"] == "2.13.0"
    assert not {"torchvision", "torchaudio"} & {name.lower() for name in pinned}
