"""How a version is named: `name`, `name@alias`, `name@v3` or a version id."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelworks.contract.errors import InvalidRequest

MAX_NAME_CHARS = 128
MAX_ALIAS_CHARS = 64
#: Always the newest version; it cannot be set.
LATEST = "latest"
#: Of names under which the platform keeps what it makes of things that have readers of their own, such as the passages of a
#: data space: the versions and deployments below are shown to administrators alone.
INNER = "spaces/"
#: What a plain name means, where it is set.
DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_ALIAS = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_NUMBER = re.compile(r"v?([0-9]{1,9})")
_VERSION_ID = re.compile(r"(mdl|ds|art)_[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: either `version_id`, or `name` with at most one of `alias` and `number`."""

    name: str | None = None
    alias: str | None = None
    number: int | None = None
    version_id: str | None = None

    @property
    def is_whole_name(self) -> bool:
        """Whether it names the model itself and no version of it in particular."""
        return self.name is not None and self.alias is None and self.number is None

    def __str__(self) -> str:
        if self.version_id is not None:
            return self.version_id
        if self.number is not None:
            return f"{self.name}@v{self.number}"
        return f"{self.name}@{self.alias}" if self.alias is not None else str(self.name)


def parse(ref: str) -> Reference:
    """Read a reference.

    Raises:
        InvalidRequest: it is not of the grammar (code `invalid_reference`).
    """
    if is_version_id(ref):
        return Reference(version_id=ref)
    name, at, selector = ref.partition("@")
    check_name(name, ref)
    if not at:
        return Reference(name=name)
    if match := _NUMBER.fullmatch(selector):
        return Reference(name=name, number=int(match.group(1)))
    if len(selector) > MAX_ALIAS_CHARS or not _ALIAS.fullmatch(selector):
        raise _invalid(ref, f"{selector!r} after the @ is neither an alias nor a version number")
    return Reference(name=name, alias=selector)


def check_name(name: str, ref: str | None = None) -> None:
    """Raise InvalidRequest unless `name` can name a model or data set."""
    shown = name if ref is None else ref
    if len(name) > MAX_NAME_CHARS:
        raise _invalid(shown[:40] + "…", f"the name has {len(name)} characters, at most {MAX_NAME_CHARS} are allowed")
    if is_version_id(name):
        raise _invalid(shown, "the name has the form of a version id")
    if not _NAME.fullmatch(name):
        raise _invalid(shown, "the name is not made of letters, digits, '.', '_', '-' and '/'")


def check_alias(alias: str) -> None:
    """Raise InvalidRequest unless `alias` can be set: `latest` and version numbers cannot."""
    if alias == LATEST:
        raise InvalidRequest(
            "The alias 'latest' always means the newest version and cannot be set.",
            hint="Choose another alias, such as 'production'.",
            param="alias",
            code="invalid_alias",
        )
    if len(alias) > MAX_ALIAS_CHARS or not _ALIAS.fullmatch(alias) or _NUMBER.fullmatch(alias):
        raise InvalidRequest(
            f"{alias[:80]!r} cannot be an alias.",
            hint=f"An alias starts with a letter, has letters, digits, '.', '_', '-', at most {MAX_ALIAS_CHARS}, "
            "and is not a version number.",
            param="alias",
            code="invalid_alias",
        )


def is_inner(name: str) -> bool:
    """Whether what has this name is shown to administrators alone; see `INNER`."""
    return name.startswith(INNER)


def is_version_id(text: str) -> bool:
    """Whether the text has the form of a version id."""
    return _VERSION_ID.fullmatch(text) is not None


def _invalid(ref: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"{ref!r} is not a valid reference: {reason}.",
        hint="Write name, name@alias, name@v3 or a version id; names start with a letter or digit.",
        code="invalid_reference",
    )
