"""Which rules are applied to passages. Light."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Policy = Literal["keep", "mask", "drop"]


class PersonalData(BaseModel):
    """What to do with personal data, by kind: mask writes `[email]` in its place, drop takes the passage away."""

    model_config = ConfigDict(extra="forbid")

    email: Policy = "mask"
    phone: Policy = Field(
        default="mask", description="Chinese mobile and fixed lines, North America, and all with + and a country."
    )
    id_number: Policy = Field(default="mask", description="Chinese resident identity numbers, by their check digit; US SSN.")
    bank_card: Policy = Field(default="mask", description="By prefix and check digit (Luhn).")
    iban: Policy = Field(default="mask", description="By their check digits (ISO 13616).")


class CleanPassages(BaseModel):
    """Rules for a data set of passages; each is counted by itself, and a run without output_name only says what it would do."""

    # The kernel's `CleaningSettings` are these with every rule off; a test holds the two to each other.

    model_config = ConfigDict(extra="forbid")

    duplicates: bool | Literal["document"] = Field(
        default=True,
        description="Take away passages that say the same in the same words as an earlier one; document: only those that say "
        "it to the letter in the same place of the same document.",
    )
    similarity: float | None = Field(
        default=0.9, gt=0.3, le=1.0, description="Take away near copies from this share of common shingles on; null: none."
    )
    boilerplate_share: float | None = Field(
        default=0.5, gt=0, le=1.0, description="Take out lines that stand in more than this share of documents; null: none."
    )
    boilerplate_documents: int = Field(default=3, ge=2, description="But in so many documents at least.")
    personal_data: PersonalData = PersonalData()
    languages: list[str] | None = Field(
        default=None,
        max_length=50,
        description="Keep passages of these (zh, en) and those whose language is not known; null: all.",
    )
    min_chars: int = Field(default=0, ge=0, description="Take away shorter passages, but for tables and code.")
    max_symbol_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Take away passages with a larger share of signs that are neither letters nor figures.",
    )
    licences: list[str] | None = Field(
        default=None,
        max_length=100,
        description="Keep documents under these licences alone, as mit or cc-by-*; unknown: those that say none. null: all.",
    )
    excerpts: bool = Field(
        default=True,
        description="false: the report names places and shows no text, since others may read it than the documents.",
    )
