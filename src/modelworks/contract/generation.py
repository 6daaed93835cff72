"""The input and output of the task `text-generation`: what the gateway and a language engine say to each other.

The gateway turns OpenAI's (and other) wire forms into `GenerationInput` and the engine's chunks back into them, so an
engine knows nothing of HTTP and the gateway nothing of tokens beyond their count.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Message(BaseModel):
    """One turn. `content` is text; parts other than text are refused before they reach a text engine."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Sampling(BaseModel):
    """How the next token is chosen. `temperature` 0 is greedy. None means "the model's own default"."""

    #: 0 reads the prompt and writes nothing: for `echo`.
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    stop: list[str] = Field(default_factory=list, max_length=16)
    #: The same seed, model and request give the same tokens, whatever else the replica is answering.
    seed: int | None = None
    n: int = Field(default=1, ge=1, le=128)
    #: Report the chosen token's log-probability, and that many alternatives.
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0)
    logit_bias: dict[int, float] = Field(default_factory=dict)


class AnswerForm(BaseModel):
    """The answer is JSON of this schema, and nothing else. An engine that cannot see to that refuses the request."""

    json_schema: dict[str, Any]
    #: Every keyword counts, `format` with any value too; otherwise a format that nobody knows is a note, as JSON Schema has it.
    strict: bool = False
    #: Where the caller wrote the schema: what is said about a part of it begins with this.
    place: str = "answer_form.json_schema"


class GenerationInput(Sampling):
    """A chat (`messages`), a text (`prompt`) or token ids (`prompt_ids`): exactly one of them."""

    messages: list[Message] | None = None
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    #: The answer stands between the prompt and this text.
    suffix: str | None = None
    #: Functions as OpenAI writes them, handed to the chat template.
    tools: list[dict[str, Any]] | None = None
    #: Whether one of them must be called; their schemas hold each call's arguments either way.
    tool_choice: Literal["auto", "required"] = "auto"
    #: Names of those that may be called; None: all.
    callable_tools: list[str] | None = None
    parallel_tool_calls: bool = True
    answer_form: AnswerForm | None = None
    #: Further variables for the chat template (`enable_thinking`).
    template_args: dict[str, Any] = Field(default_factory=dict)
    #: Return the prompt before the completion (completions only); with `logprobs`, the log-probabilities of its tokens too,
    #: and that of the end token where one ends the answer.
    echo: bool = False

    @model_validator(mode="after")
    def _one_prompt(self) -> GenerationInput:
        given = [name for name in ("messages", "prompt", "prompt_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of messages, prompt and prompt_ids, not {given or 'none'}")
        if self.suffix is not None and (self.messages is not None or self.echo):
            raise ValueError("suffix goes with a text or token ids, without echo")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 writes nothing: it goes with echo")
        return self


class TokenLogprob(BaseModel):
    """One token with its natural-log probability, None for the first of a prompt, which follows nothing.

    `text` may be a partial character; `bytes` never lies.
    """

    token_id: int
    text: str
    bytes: list[int]
    logprob: float | None
    top: list[TokenLogprob] = Field(default_factory=list)


class GenerationUsage(BaseModel):
    """Counted in the engine, never estimated."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ToolCallPiece(BaseModel):
    """A piece of a call. The first one of a call has its name, whole; `arguments` put together are one JSON object."""

    #: Which of the choice's calls, from 0.
    index: int
    name: str | None = None
    arguments: str = ""


class GenerationChunk(BaseModel):
    """A step of one choice.

    The first chunk of a request carries `usage` with the prompt's tokens before any text; `token_ids` are the tokens that
    this chunk accounts for (their text may arrive with a later chunk while a character is incomplete). Each choice ends
    with one chunk that has a `finish_reason`; the last chunk of the request carries the final `usage`.
    """

    index: int = 0
    text: str = ""
    #: Thoughts before the answer, which are no part of `text`.
    reasoning: str = ""
    tool_calls: list[ToolCallPiece] | None = None
    token_ids: list[int] = Field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    #: The stop string that ended the choice, where one did.
    stopped_by: str | None = None
    usage: GenerationUsage | None = None
