"""Law 4: what exists is documented, what is documented exists, and examples run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.sources import CAPABILITIES, PROJECT, capability_folders, project_files, relative

DOCS = PROJECT / "docs"
PAGES = sorted(
    path
    for path in [*DOCS.rglob("*.md"), *PROJECT.glob("*.md"), *CAPABILITIES.rglob("*.md")]
    if "__pycache__" not in path.parts
)
GENERATE = [sys.executable, str(DOCS / "generate.py")]


@pytest.fixture(scope="module")
def said() -> str:
    """What the check of all generated pages says: the server that two of them describe is made once."""
    done = subprocess.run([*GENERATE, "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 or "out of date: " in done.stderr, done.stderr
    return done.stderr.rpartition("out of date: ")[2].partition(";")[0] if done.returncode else ""


@pytest.mark.xdist_group("generated-pages")
@pytest.mark.parametrize("page", ["settings.md", "errors.md", "http.md", "openapi.json"])
def test_generated_pages_are_current(page: str, said: str) -> None:
    """Settings, error codes and routes come from the code; the OpenAPI document changes only on purpose (law 5)."""
    assert page not in said.split(", ")


def test_a_stale_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import generate

    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    assert generate.main(["--check", "settings.md"]) == 1
    (tmp_path / "settings.md").write_text(generate.settings_page())
    assert generate.main(["--check", "settings.md"]) == 0
    (tmp_path / "settings.md").write_text(generate.settings_page().replace("MODELWORKS_PORT", "MODELWORKS_POTR"))
    assert generate.main(["--check", "settings.md"]) == 1


def test_every_setting_and_error_class_has_a_meaning() -> None:
    from modelworks.kernel.base.settings import Settings

    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_every_verb_of_the_command_line_is_documented() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    listing = subprocess.run(
        [sys.executable, "-m", "modelworks.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "MODELWORKS_LANG": "en", "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"},
        check=True,
    ).stdout
    verbs = set(re.findall(r"^[│|\s]{1,4}([a-z][a-z-]+)\s{2,}\S", listing, flags=re.MULTILINE))
    assert {"serve", "train", "deploy", "chat"} <= verbs, listing
    missing = sorted(verb for verb in verbs if f"modelworks {verb}" not in page)
    assert not missing, f"docs/reference/cli.md does not speak of {missing}"


def test_architecture_names_paths_that_exist() -> None:
    text = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src|tests|docs|benchmarks|demo|deploy|\.ci)/[\w./*-]*)`", text)
    assert len(paths) > 20
    missing = [path for path in paths if not list(PROJECT.glob(path.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{relative(page)} links to {target}"


def examples() -> list[tuple[str, str]]:
    """Fenced blocks marked `python run`: (place, code)."""
    found = []
    for page in PAGES:
        for match in re.finditer(
            r"^```python run\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        ):
            found.append(
                (f"{relative(page)}:{page.read_text(encoding='utf-8')[: match.start()].count(chr(10)) + 1}", match.group(1))
            )
    return found


def test_there_are_examples_that_run() -> None:
    assert len(examples()) >= 3


@pytest.mark.parametrize(("place", "code"), examples(), ids=[place for place, _ in examples()])
def test_examples_run(place: str, code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "MODELWORKS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{place}\n{done.stderr}"


@pytest.mark.parametrize("folder", capability_folders(), ids=lambda folder: folder.name)
def test_every_capability_is_linked_from_the_documentation(folder: Path) -> None:
    assert f"capabilities/{folder.name}/README.md" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_decisions_are_numbered_without_a_gap_and_have_one_form() -> None:
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{page.name} lacks {heading}"
        assert page.name in (DOCS / "decisions" / "README.md").read_text(encoding="utf-8"), f"{page.name} is not in the list"


def test_no_page_speaks_of_how_the_work_is_organised() -> None:
    words = [left + right for left, right in (("sub", "agent"), ("the br", "ief"), ("LLM as", "sistant"), ("AI as", "sistant"))]
    bad = [
        f"{relative(path)}: {word}"
        for path in project_files()
        if path.suffix == ".md"
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert not bad
