"""The grammar of references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.catalog.references import Reference, check_alias, is_version_id, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny", Reference(name="tiny")),
        ("Qwen/Qwen3-0.6B", Reference(name="Qwen/Qwen3-0.6B")),
        ("a/b/c@production", Reference(name="a/b/c", alias="production")),
        ("tiny@v3", Reference(name="tiny", number=3)),
        ("tiny@3", Reference(name="tiny", number=3)),
        ("tiny@latest", Reference(name="tiny", alias="latest")),
        ("tiny@v3-beta", Reference(name="tiny", alias="v3-beta")),
    ],
)
def test_forms(text: str, expected: Reference) -> None:
    assert parse(text) == expected


def test_version_ids() -> None:
    version_id = new_id("mdl")
    assert parse(version_id) == Reference(version_id=version_id)
    assert is_version_id(new_id("ds"))
    assert not is_version_id(new_id("run"))


@pytest.mark.parametrize("text", ["", "@v1", "a@", "a@b@c", "a b", "/a", "a/", "a//b", ".a", "a@-x", "a\n", "a@1\n", "ä"])
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert caught.value.error_code == "invalid_reference"


@given(st.text(max_size=40))
def test_any_text_is_either_refused_or_means_what_it_prints(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidRequest:
        return
    assert parse(str(reference)) == reference


@given(st.text(max_size=20))
def test_an_alias_that_can_be_set_can_be_named(alias: str) -> None:
    try:
        check_alias(alias)
    except InvalidRequest:
        return
    assert parse(f"tiny@{alias}") == Reference(name="tiny", alias=alias)
