"""The declaration of the toy."""

from __future__ import annotations

from pydantic import BaseModel, Field

from modelworks.contract.capability import Capability, Resources, Task

SMALL = Resources(cpu=0.5, memory_bytes=64 << 20)


class CountInput(BaseModel):
    text: str = ""


class CareParams(BaseModel):
    epochs: int = Field(1, ge=1)
    unwanted: str = "bad"


class CountOutput(BaseModel):
    total: int


class CountParams(BaseModel):
    """How far to count, and everything that can go wrong on the way."""

    steps: int = Field(default=6, ge=1)
    checkpoint_every: int = Field(default=2, ge=1)
    rate: float = Field(default=0.5, gt=0)
    #: Kill the own process before this step, in the first `die_attempts` attempts.
    die_at: int | None = None
    die_attempts: int = 1
    raise_at: int | None = None
    exit_at: int | None = None
    unavailable_at: int | None = None
    #: Before this step wait until the file exists.
    wait_at: int | None = None
    wait_for: str | None = None
    #: Never look whether the run is cancelled; ignore SIGTERM too.
    stubborn: bool = False
    #: Start a process of one's own and write its pid into this file.
    child_pid_file: str | None = None
    noise: bool = False
    print_environment: bool = False
    save_early: bool = False
    pickle: bool = False
    #: From this step on no file may grow any more.
    full_at: int | None = None
    stop_at: int | None = None
    #: What it says that it needs, and in this step asks for more than it may have.
    estimated_bytes: int | None = None
    hoard_at: int | None = None


class LabelParams(BaseModel):
    #: Kill the own process after so many answers, in the first attempt.
    die_after: int | None = None


class TogetherParams(BaseModel):
    """How far several workers count together, and which of them something happens to."""

    steps: int = Field(default=6, ge=1)
    checkpoint_every: int = Field(default=2, ge=1)
    pause_s: float = 0.0
    rank: int = 0
    die_at: int | None = None
    raise_at: int | None = None


class MeasureParams(BaseModel):
    wrong: bool = False


capability = Capability(
    name="toy",
    summary="Counts.",
    package="toycap",
    extra="toys",
    tasks=(
        Task(
            name="toy-count",
            input=CountInput,
            output=CountOutput,
            predictor="toycap.work:count_all",
            mode="job",
            validator="toycap.care:validate",
            validate_params=CareParams,
            cleaner="toycap.care:clean",
            clean_params=CareParams,
            labeler="toycap.work:label",
            label_params=LabelParams,
            trainer="toycap.work:train",
            train_params=CountParams,
            estimator="toycap.care:estimate",
            evaluator="toycap.work:evaluate",
            evaluate_params=MeasureParams,
            metrics=("accuracy", "loss"),
            resources=SMALL,
        ),
        Task(
            name="toy-together",
            input=CountInput,
            output=CountOutput,
            predictor="toycap.work:count_all",
            mode="job",
            trainer="toycap.together:train",
            train_params=TogetherParams,
            distributed=True,
            resources=SMALL,
        ),
        Task(
            name="toy-heavy",
            input=CountInput,
            output=CountOutput,
            predictor="toycap.heavy:predict",
            trainer="toycap.heavy:train",
            train_params=CountParams,
            resources=SMALL,
        ),
        Task(
            name="toy-large",
            input=CountInput,
            output=CountOutput,
            predictor="toycap.work:count_all",
            mode="job",
            resources=Resources(cpu=10_000),
        ),
    ),
)
