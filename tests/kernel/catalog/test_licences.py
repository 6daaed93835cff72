"""How licences compare."""

from __future__ import annotations

import pytest

from modelworks.kernel.catalog.licences import most_restrictive, restriction


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("apache-2.0", "permissive"),
        ("MIT", "permissive"),
        ("bsd-3-clause", "permissive"),
        ("cc-by-4.0", "attribution"),
        ("cc-by-sa-4.0", "share-alike"),
        ("agpl-3.0", "copyleft"),
        ("llama3.1", "use-restricted"),
        ("creativeml-openrail-m", "use-restricted"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("our house rules", "unknown"),
    ],
)
def test_classes(licence: str, expected: str) -> None:
    assert restriction(licence) == expected


def test_the_most_restrictive_one_wins() -> None:
    assert most_restrictive(["mit", "cc-by-nc-4.0", "apache-2.0"]) == ("cc-by-nc-4.0", "non-commercial")
    assert most_restrictive(["gpl-3.0", "house rules"]) == ("house rules", "unknown")
    assert most_restrictive([]) == (None, "unknown")
