"""Names and calls that this project does not use, each with the reason."""

import ast
import re
from pathlib import Path

import pytest
from tests.architecture.sources import (
    KERNEL,
    PACKAGE,
    PROJECT,
    capability_folders,
    project_files,
    python_files,
    relative,
    tree_of,
)

#: They say nothing of what is inside, so everything ends up there.
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

#: Calls that run code found in a data file.
UNSAFE_CALLS = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "dill.load",
    "dill.loads",
    "shelve.open",
}
UNSAFE_ARGUMENTS = {("weights_only", False), ("trust_remote_code", True), ("allow_pickle", True), ("use_safetensors", False)}

#: Written in halves so that this file does not contain them.
REGISTRIES = [
    left + right for left, right in (("pypi", ".org"), ("pythonhosted", ".org"), ("npmjs", ".com"), ("conda", ".anaconda"))
]
MACHINE_PATHS = [left + right for left, right in (("/wo", "rk/"), ("/tmp/", "brief"), ("/ro", "ot/"))]
UNFINISHED = [left + right for left, right in (("TO", "DO"), ("FIX", "ME"), ("XX", "X:"))]


def test_no_file_has_an_empty_word_for_a_name() -> None:
    bad = [
        relative(path)
        for path in project_files()
        if path.suffix == ".py" and EMPTY_WORDS & set(re.split(r"[/_.]", relative(path).lower()))
    ]
    assert not bad, f"name them for what they hold: {bad}"


def test_no_class_is_a_manager_or_a_helper() -> None:
    bad = [
        f"{relative(path)}: {node.name}"
        for path in python_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Helper|Utils?)$", node.name)
    ]
    assert not bad


def unsafe(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in UNSAFE_CALLS:
                found.append(name)
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in UNSAFE_ARGUMENTS:
                    found.append(f"{name}({keyword.arg}={keyword.value.value})")
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "joblib", "shelve"):
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in ("pickle", "dill", "joblib", "shelve", "cloudpickle")]
    return found


@pytest.mark.parametrize(
    "path", [*python_files(), *python_files(PROJECT / "benchmarks"), *python_files(PROJECT / "demo")], ids=relative
)
def test_nothing_reads_pickles_or_runs_code_from_a_checkpoint(path: Path) -> None:
    assert not unsafe(tree_of(path))


@pytest.mark.parametrize(
    "code", ["import pickle", "torch.load(x)", "f(x, weights_only=False)", "A.from_pretrained(x, trust_remote_code=True)"]
)
def test_the_check_would_see_an_unsafe_call(code: str) -> None:
    assert unsafe(ast.parse(code))


def names_a_capability(tree: ast.AST, names: set[str]) -> list[str]:
    """Comparisons of something called capability with a capability's name, and paths into a capability's package."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("modelworks.capabilities."):
            found.append(node.value)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literals = {each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant)}
            if literals & names and "capability" in ast.unparse(node).lower():
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Match) and "capability" in ast.unparse(node.subject).lower():
            found.append(f"match {ast.unparse(node.subject)}")
    return found


@pytest.mark.parametrize("path", python_files(KERNEL), ids=relative)
def test_the_kernel_names_no_capability(path: Path) -> None:
    names = {folder.name.replace("_", "-") for folder in capability_folders()}
    assert names
    assert not names_a_capability(tree_of(path), names)


@pytest.mark.parametrize(
    "code",
    [
        'if capability.name == "text": pass',
        'x in ("text",) and y\nx = run.capability in ("a", "text")',
        'f("modelworks.capabilities.text:x")',
    ],
)
def test_the_check_would_see_a_capability(code: str) -> None:
    assert names_a_capability(ast.parse(code), {"text"})


#: The rooms that may compare a task's name with a literal, which, and why.
TASK_BRANCHES = {
    "gateway": ({"text-generation"}, "OpenAI's chat and completion routes are the wire form of this one task"),
}


@pytest.mark.parametrize("path", python_files(KERNEL), ids=relative)
def test_the_kernel_branches_on_no_task(path: Path) -> None:
    allowed, _reason = TASK_BRANCHES.get(path.relative_to(KERNEL).parts[0], (set(), ""))
    bad = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Compare) and re.search(r"\btask\b", ast.unparse(node)):
            literals = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
            bad += [literal for literal in literals if "-" in literal and literal not in allowed]
    assert not bad, f"{relative(path)} compares a task with {bad}"


def test_nothing_names_a_package_registry_or_a_path_of_one_machine() -> None:
    bad = []
    for path in project_files():
        if path.suffix in (".db", ".png", ".ico", ".woff2"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        bad += [f"{relative(path)}: {word}" for word in (*REGISTRIES, *MACHINE_PATHS) if word in text]
    assert not bad


def test_nothing_is_left_unfinished() -> None:
    bad = [
        f"{relative(path)}: {word}"
        for path in project_files()
        if path.suffix in (".py", ".toml", ".tmpl", ".yaml") or path.name in ("Makefile", "run")
        for word in UNFINISHED
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    for path in python_files():
        raised = [ast.unparse(node.exc) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Raise) and node.exc]
        bad += [f"{relative(path)}: raises {what}" for what in raised if what.startswith("NotImplementedError")]
    assert not bad


def test_no_marks_of_a_merge_are_left() -> None:
    mark = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    bad = [relative(path) for path in project_files() if mark.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not bad


def test_only_routes_raise_http_exceptions() -> None:
    bad = [
        relative(path)
        for path in python_files(PACKAGE)
        if path.name != "routes.py" and re.search(r"raise HTTPException", path.read_text(encoding="utf-8"))
    ]
    assert not bad
