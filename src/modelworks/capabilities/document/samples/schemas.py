"""Inputs and outputs of the task `sample-making`. Light."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Maker = Literal["heading", "definition", "cloze", "table", "teacher", "correction"]
Language = Literal["en", "zh"]
MOST_SHARDS = 16


def _complete(found: dict[Language, str]) -> dict[Language, str]:
    if lacking := set(get_args(Language)) - set(found):
        raise ValueError(f"say what stands for the language {min(lacking)!r}, too")
    return found


class PromptForm(BaseModel):
    """The words in which passages are handed to a model, the same in training and in answering."""

    model_config = ConfigDict(extra="forbid")

    system: str = Field(
        default="Answer from the passages alone, in {{language}}. After each sentence, write the number of the passage that "
        "says it in square brackets. If the passages do not hold the answer, write NOT IN THE DOCUMENTS.{{further}}",
        max_length=20_000,
        description="The instructions; {{language}} and {{further}} are filled in.",
    )
    languages: Annotated[dict[Language, str], AfterValidator(_complete)] = Field(
        default={"en": "the language of the question", "zh": "Chinese (中文)"},
        description="What stands for {{language}}.",
    )
    not_found: str = Field(
        default="NOT IN THE DOCUMENTS", min_length=1, max_length=200, description="The answer where the passages have none."
    )


class SampleRequest(BaseModel):
    """How the passages of the data set of role "passages" are made samples."""

    model_config = ConfigDict(extra="forbid")

    form: PromptForm = Field(default_factory=PromptForm)
    makers: list[Maker] = Field(
        default=["heading", "definition", "cloze", "table", "teacher", "correction"],
        min_length=1,
        description="Who asks; teacher: the deployment of that role, correction: readers, by the data set corrections, where "
        "these are given.",
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=MOST_SHARDS,
        description="Parts of the documents to learn from of which nothing gets into each other's samples: with 2 and more, "
        "each is a data set of its own, too.",
    )
    fresh: bool = Field(
        default=False,
        description="Also save the samples of documents that the data set previous does not have, or has as they were before.",
    )
    correction_repeats: int = Field(
        default=2, ge=1, le=100, description="Samples that are made of each correction, each beside other passages."
    )
    max_samples: int = Field(default=1000, ge=10, le=1_000_000, description="Samples to learn from, refusals included.")
    max_test_samples: int = Field(default=200, ge=5, le=100_000, description="Samples that are held out.")
    per_document: int = Field(default=40, ge=1, le=100_000, description="Samples of one document at most.")
    test_share: float = Field(default=0.2, gt=0, lt=1, description="About which part of the documents is held out whole.")
    refusal_share: float = Field(
        default=0.15, ge=0, le=0.5, description="Part of the samples whose passages do not hold the answer."
    )
    passages: int = Field(default=3, ge=1, le=20, description="Passages shown with each question.")
    around: int = Field(default=1, ge=0, le=8, description="Neighbours in the same section shown with each passage.")
    max_prompt_chars: int = Field(
        default=6000, ge=200, le=1_000_000, description="Longest list of passages; a Chinese character counts for 2.5."
    )
    without: list[str] = Field(default_factory=list, max_length=100_000, description="Documents that nothing is made of.")
    max_questions: int = Field(default=200, ge=1, le=1_000_000, description="Passages that the teacher is asked about.")
    concurrency: int = Field(default=2, ge=1, le=256, description="Questions to the teacher at the same time.")
    max_tokens: int = Field(default=200, ge=16, le=4096, description="Longest answer of the teacher, in tokens.")


class SampleOutput(BaseModel):
    """What was made; the samples are the data sets that the run saved."""

    num_documents: int
    num_test_documents: int
    num_samples: int
    num_test_samples: int
    #: Samples by maker, both parts together; `refusal` are those without an answer.
    makers: dict[str, int] = Field(default_factory=dict)
    #: What the teacher wrote and was not taken, by reason; corrections that no passage supports, and samples that say what
    #: readers found wrong.
    dropped: dict[str, int] = Field(default_factory=dict)
    #: Samples of each shard, and those of them that are new; empty without shards, and without an earlier time.
    shards: list[int] = Field(default_factory=list)
    fresh: list[int] = Field(default_factory=list)
