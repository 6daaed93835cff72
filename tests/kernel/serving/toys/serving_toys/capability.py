from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from modelworks.contract.capability import Capability, Resources, Task


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prefix: str = ""
    load_s: float = 0.0
    context_length: int | None = Field(default=None, ge=1)
    #: Load only when this file exists.
    needs_file: str | None = None
    health: str = "/health"


class EchoInput(BaseModel):
    text: str
    delay_s: float = 0.0
    action: str = ""


class EchoOutput(BaseModel):
    text: str
    pid: int


class CountInput(BaseModel):
    num: int = Field(ge=0)
    first_delay_s: float = 0.0
    delay_s: float = 0.0
    fail_at: int | None = None
    #: "closed" is appended to this file when the iterator is closed before its end.
    note: str | None = None
    wide: int = 0


class CountOutput(BaseModel):
    value: int
    token_ids: list[int] = Field(default_factory=list)
    filler: str = ""


class Nothing(BaseModel):
    pass


_SMALL = Resources(cpu=0.1, memory_bytes=64 << 20)

capability = Capability(
    name="serving-toys",
    summary="Toys",
    package="serving_toys",
    extra="toys",
    tasks=(
        Task(
            name="echo",
            input=EchoInput,
            output=EchoOutput,
            predictor="serving_toys.predictors:Echo",
            predictors={
                "plain": "serving_toys.predictors:Echo",
                "async": "serving_toys.predictors:AsyncEcho",
                "broken": "serving_toys.predictors:Broken",
                "refusing": "serving_toys.predictors:Refusing",
                "heavy": "serving_toys.heavy:Heavy",
                "hosting": "serving_toys.hosting:Hosting",
            },
            servers={
                "fake-openai": "serving_toys.servers:command",
                "hosting-openai": "serving_toys.servers:hosting",
                "absent-program": "serving_toys.servers:absent",
                "dying": "serving_toys.servers:dying",
            },
            options=Options,
            resources=_SMALL,
        ),
        Task(
            name="count",
            input=CountInput,
            output=CountOutput,
            mode="stream",
            predictor="serving_toys.predictors:Counter",
            predictors={
                "plain": "serving_toys.predictors:PlainCounter",
                "object": "serving_toys.predictors:ObjectCounter",
            },
            resources=_SMALL,
        ),
        Task(name="gallery", input=Nothing, output=Nothing, mode="static"),
        Task(name="nightly", input=Nothing, output=Nothing, mode="job", predictor="serving_toys.predictors:nightly"),
    ),
)
