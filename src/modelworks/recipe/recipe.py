"""What a recipe says: sources of text with their licences, what is made of them, and the stages of training."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.recipe.extraction import Form


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextSource(_Table):
    """Files that become documents."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    root: Literal["package", "python", "shared", "recipe"] = Field(
        description="Where: an operating system's package, Python's own library, MODELWORKS_SHARED, or beside the recipe."
    )
    package: str | None = Field(None, description="Name of the package, for the root package.")
    files: list[str] = Field(min_length=1, description="Glob patterns below the root.")
    exclude: list[str] = Field([], description="Glob patterns of files that are left out.")
    form: Form = "text"
    template: str | None = Field(
        None, description="For jsonl: the text, with {field} for each field of a record; lists become lines."
    )
    language: str = Field(description="What its held-out text is measured as: zh, en, py.")
    licence: str = Field(min_length=2, description="The licence of these files, as the source states it.")
    origin: str = Field(description="Who made it: what a licence that asks for attribution wants said.")
    limit_bytes: int | None = Field(None, ge=1, description="At most so much of it, chosen by a hash of each document.")
    min_chars: int = Field(60, ge=1, description="Shorter documents are left out.")
    translation_of: str | None = Field(
        None, description="Source whose documents have the same names but for the language: pairs across languages."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.root == "package") != (self.package is not None):
            raise ValueError(f"source {self.name!r}: a package is named where the root is 'package', and only there")
        return self


class Text(_Table):
    """How the documents of all sources become one data set."""

    held_out: float = Field(0.01, gt=0, le=0.5, description="Part of the documents that no stage reads, by hash.")
    seed: int = 0


class Skills(_Table):
    """Conversations that a program beside the recipe makes out of data."""

    program: str = Field(description="A Python file beside the recipe; see `modelworks.recipe.skills`.")
    shared: list[str] = Field([], description="Files below MODELWORKS_SHARED that it reads.")
    licence: str = Field(min_length=2, description="The licences of what it reads.")
    limit: int | None = Field(None, ge=1, description="At most so many conversations of each skill.")
    held_out: float = Field(0.05, gt=0, le=0.5)
    seed: int = 0


class Pairs(_Table):
    """Queries with their passages, made of the documents; see `modelworks.recipe.pairs`."""

    kinds: list[Literal["heading", "question", "cloze", "keywords", "parallel"]] = Field(
        ["heading", "question", "cloze", "keywords"], min_length=1, description="What stands for a query."
    )
    max_chars: int = Field(300, ge=50, description="Longest passage in Chinese characters; English may be three times as long.")
    min_chars: int = Field(40, ge=10, description="Shorter passages are left out.")
    questions: int = Field(1, ge=1, le=16, description="Questions of each passage.")
    keywords: float = Field(0.5, ge=0, le=1, description="Part of the passages for which key words are asked.")
    limit: int | None = Field(None, ge=1, description="At most so many pairs of each language, chosen by hash.")
    seed: int = 0


class Stage(_Table):
    """One run of training."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    data: Literal["text", "skills", "pairs"]
    task: str | None = Field(None, description="What it trains, where that is not the recipe's task.")
    seed: int = 0
    params: dict[str, Any] = Field(default_factory=dict)
    small: dict[str, Any] = Field(default_factory=dict, description="Parameters instead, where a tenth or less is made.")


class Recipe(_Table):
    """A whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    capability: str = "text"
    task: str = "text-generation"
    summary: str
    base: str | None = Field(
        None, description="The recipe whose model the first stage begins with; at another scale, its model of that scale."
    )
    licence: str = Field(description="The licence of the weights that come out.")
    text: Text = Text()
    source: list[TextSource] = Field(min_length=1)
    skills: Skills | None = None
    pairs: Pairs | None = None
    stage: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, names in (
            ("sources", [each.name for each in self.source]),
            ("stages", [each.name for each in self.stage]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have the same name")
        if self.skills is None and any(stage.data == "skills" for stage in self.stage):
            raise ValueError("a stage reads skills, but there is no table [skills]")
        if self.pairs is None and any(stage.data == "pairs" for stage in self.stage):
            raise ValueError("a stage reads pairs, but there is no table [pairs]")
        unknown = {each.translation_of for each in self.source} - {None} - {each.name for each in self.source}
        if unknown:
            raise ValueError(f"translation_of names {sorted(map(str, unknown))[0]!r}, which is no source")
        return self

    @property
    def digest(self) -> str:
        """`sha256:…` of everything it says."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(value: Any) -> str:
    """`sha256:…` of a value as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(file: Path) -> Recipe:
    """Read a recipe.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: it is not valid TOML, or a field is missing, unknown or wrong; the message names it.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"There is no recipe {str(file)!r}.", hint="Give the path of a .toml file.", param="recipe") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The recipe {str(file)!r} is not valid TOML: {error}.", param="recipe") from error
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"The recipe {str(file)!r}, {place or 'as a whole'}: {first['msg']}.", param="recipe") from error
