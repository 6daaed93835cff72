"""Inputs and outputs of the task `document-parsing`. Light."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ParsingRequest(BaseModel):
    """How the documents of the data set of role "documents" are made passages."""

    model_config = ConfigDict(extra="forbid")

    passage_chars: int = Field(default=1000, ge=100, le=20_000, description="About how long a passage is, in Latin letters.")
    passage_chars_chinese: int | None = Field(
        default=None, ge=40, le=20_000, description="The same in Chinese characters; by default two fifths of it."
    )
    ocr: Literal["auto", "never"] = Field(
        default="auto", description="auto: pictures and pages without text are read by OCR, where the extra `ocr` is installed."
    )
    page_timeout_s: float = Field(default=60.0, gt=0, le=3600, description="The most time that one page may take.")
    document_timeout_s: float = Field(
        default=300.0, gt=0, le=86_400, description="The most time that a document without pages may take."
    )
    max_pages: int = Field(default=10_000, ge=1, description="Pages behind this one are left out, and this is said.")
    max_document_bytes: int = Field(
        default=1 << 30, ge=1, description="A larger file is refused, as is what an archive unpacks."
    )
    max_document_chars: int = Field(default=20_000_000, ge=1_000, description="Text behind this is left out, and this is said.")
    worker_memory_bytes: int = Field(default=2 << 30, ge=256 << 20, description="Address space of each parsing process.")
    num_processes: int | None = Field(default=None, ge=1, le=64, description="Default: half of the cores, at most four.")

    @property
    def chinese_ratio(self) -> float:
        """How many letters a Chinese character counts for."""
        return 2.5 if self.passage_chars_chinese is None else self.passage_chars / self.passage_chars_chinese


class ParsingOutput(BaseModel):
    """What became of the documents; the passages are the data set that the run saved."""

    num_documents: int
    num_parsed: int
    num_partial: int
    num_failed: int
    #: Of these, taken over from the data set of role "previous" as they are.
    num_unchanged: int
    num_passages: int
    num_pages: int
    num_chars: int
    #: How many documents have a fault of each code.
    faults: dict[str, int] = Field(default_factory=dict)
