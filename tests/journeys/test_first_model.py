"""From text to a model to a chat through the official client: every call against a real server and a real engine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pydantic
import pytest
from tests.journeys.language_model import PARAMS, train_and_deploy
from tests.journeys.platform_process import PlatformProcess, wait_until_ready
from transformers import AutoTokenizer

from modelworks.capabilities.text.tokenizer import chat_template
from modelworks.client import Modelworks

NAME = "lab/first"
PROMPT = "The river"

#: One platform serves all of them.
pytestmark = pytest.mark.xdist_group("first-model")


class Stage:
    """A platform on which `lab/first` answers."""

    def __init__(self, platform: PlatformProcess, ours: Modelworks, folder: Path) -> None:
        self.platform = platform
        self.ours = ours
        self.run = train_and_deploy(ours, NAME, folder / "text")
        self.openai = self.client(platform.key)
        model = folder / "model"
        for file in ours.models.get(NAME)["version"]["files"]:
            ours.blobs.download(file["digest"], model / file["path"])
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.platform.url}/v1", api_key=key, max_retries=0, timeout=60)

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("first")
    with PlatformProcess(root / "home") as platform, platform.client() as ours:
        yield Stage(platform, ours, root)


def completion(stage: Stage, **fields: Any) -> Any:
    fields = {"model": NAME, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields}
    return stage.openai.completions.create(**fields)


def chat(stage: Stage, **fields: Any) -> Any:
    fields = {"model": NAME, "messages": [{"role": "user", "content": "Where is the river?"}], "temperature": 0, **fields}
    return stage.openai.chat.completions.create(**fields)


def test_the_training_is_in_the_catalog_with_its_lineage(stage: Stage) -> None:
    losses = {
        point["step"]: point["value"] for point in stage.ours.runs.metrics(stage.run["id"]).data if point["name"] == "loss"
    }
    assert sorted(losses) == list(range(1, PARAMS["steps"] + 1))
    assert losses[PARAMS["steps"]] < losses[1] - 1
    version = stage.ours.models.get(NAME)["version"]
    assert (version["level"], version["task"]) == ("L0", "text-generation")
    tree = json.dumps(stage.ours.lineage.tree(NAME))
    assert stage.run["id"] in tree
    assert f"{NAME}-text" in tree


def test_models_are_listed_and_found_with_a_slash_in_their_name(stage: Stage) -> None:
    assert [model.id for model in stage.openai.models.list()] == [NAME]
    model = stage.openai.models.retrieve(NAME)
    assert model.id == NAME
    assert model.model_dump()["max_model_len"] == PARAMS["context_length"]


def test_usage_is_what_the_tokenizer_counts(stage: Stage) -> None:
    answer = completion(stage)
    assert answer.usage.prompt_tokens == stage.count(PROMPT)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.completion_tokens == 12
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "春天的河。"}]
    ids = stage.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat(stage, messages=messages, max_completion_tokens=3).usage.prompt_tokens == len(ids)


def test_a_stream_says_the_same_as_an_answer_at_once(stage: Stage) -> None:
    whole = completion(stage)
    parts = list(completion(stage, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    assert parts[-1].choices == []
    # How much of the prompt came from the cache may differ, what it cost may not.
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens
    spoken = chat(stage, max_tokens=12)
    steps = list(chat(stage, max_tokens=12, stream=True))
    assert steps[0].choices[0].delta.role == "assistant"
    assert [step.choices[0].delta.role for step in steps[1:] if step.choices] == [None] * (len(steps) - 1)
    assert "".join(step.choices[0].delta.content or "" for step in steps) == spoken.choices[0].message.content
    assert steps[-1].choices[0].finish_reason == spoken.choices[0].finish_reason


class Reading(pydantic.BaseModel):
    """What the client's `parse` turns into `json_schema` with strict."""

    level: Literal["low", "high"]
    metres: int = pydantic.Field(ge=0, le=9)


def test_an_answer_has_the_form_that_is_asked_for(stage: Stage) -> None:
    messages: Any = [{"role": "user", "content": "Where?"}]
    parsed = stage.openai.chat.completions.parse(model=NAME, messages=messages, response_format=Reading)
    reading = parsed.choices[0].message.parsed
    assert reading is not None
    assert 0 <= reading.metres <= 9
    # As LangChain's with_structured_output sends it: no strict, a title, a description.
    schema = {"title": "Reading", "description": "Of a gauge.", **Reading.model_json_schema()}
    form = {"type": "json_schema", "json_schema": {"name": "Reading", "schema": schema}}
    text = chat(stage, messages=messages, response_format=form, seed=1, temperature=1).choices[0].message.content
    steps = list(chat(stage, messages=messages, response_format=form, seed=1, temperature=1, stream=True))
    assert "".join(step.choices[0].delta.content or "" for step in steps) == text
    Reading.model_validate_json(text)
    cut = chat(stage, messages=messages, response_format=form, max_tokens=2).choices[0]
    assert (cut.finish_reason, cut.message.content[0]) == ("length", "{")
    some = chat(stage, messages=messages, response_format={"type": "json_object"}, max_tokens=40).choices[0]
    assert some.message.content.startswith("{")
    assert some.finish_reason == "length" or isinstance(json.loads(some.message.content), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_cannot_be_kept_is_a_400_and_no_answer(stage: Stage, stream: bool) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(["}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(stage, response_format=form, stream=stream)
    assert caught.value.param == "response_format.json_schema.schema.properties.x.pattern"
    assert caught.value.type == "invalid_request_error"


def test_both_names_of_the_limit_are_honoured(stage: Stage) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = chat(stage, **limit)
        assert answer.usage.completion_tokens <= 3
        assert answer.choices[0].finish_reason in ("length", "stop")


def test_a_stop_string_ends_the_text_before_it(stage: Stage) -> None:
    text = completion(stage, max_tokens=40).choices[0].text
    stop = text[len(text) // 2 :][:3]
    assert stop
    cut = completion(stage, max_tokens=40, stop=[stop])
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = completion(stage, max_tokens=40, stop=[stop], stream=True)
    assert "".join(part.choices[0].text for part in streamed if part.choices) == cut.choices[0].text


def test_a_seed_makes_sampling_repeatable(stage: Stage) -> None:
    first, second, third = (
        completion(stage, temperature=1.0, seed=seed, max_tokens=30).choices[0].text for seed in (11, 11, 12)
    )
    assert first == second
    assert first != third


def test_several_choices_are_numbered_and_counted(stage: Stage) -> None:
    answer = completion(stage, n=3, temperature=1.0, seed=5, max_tokens=8)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens > 8


def test_log_probabilities_belong_to_the_tokens(stage: Stage) -> None:
    answer = chat(stage, logprobs=True, max_tokens=6)
    entries = answer.choices[0].logprobs.content
    said = bytes(value for entry in entries for value in entry.bytes)
    assert said.decode("utf-8", "replace").startswith(answer.choices[0].message.content)
    assert all(entry.logprob <= 0 and math.isfinite(entry.logprob) for entry in entries)
    legacy = completion(stage, logprobs=0, max_tokens=6)
    assert len(legacy.choices[0].logprobs.token_logprobs) == legacy.usage.completion_tokens


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        completion(stage, prompt="river " * 400)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.type == "invalid_request_error"
    assert str(PARAMS["context_length"]) in refused.value.message


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(stage: Stage, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        completion(stage, prompt=prompt)
    assert refused.value.param == "prompt"


def test_an_unknown_model_names_those_that_exist(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        completion(stage, model="lab/frist")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert NAME in missing.value.message


def test_keys_missing_wrong_expired_revoked_and_restricted(stage: Stage) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong:
        stage.client("mw-nothing").models.list()
    assert wrong.value.code == "invalid_api_key"
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    short = stage.ours.keys.create("short", scopes=["inference"], expires_at=soon)
    other = stage.ours.keys.create("other", scopes=["inference"], model_allow=["something-else"])
    gone = stage.ours.keys.create("gone", scopes=["inference"])
    assert stage.client(gone["secret"]).models.retrieve(NAME).id == NAME
    stage.ours.keys.revoke(gone["id"])
    with pytest.raises(openai.AuthenticationError) as revoked:
        stage.client(gone["secret"]).models.list()
    assert revoked.value.code == "revoked_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        stage.client(other["secret"]).completions.create(model=NAME, prompt=PROMPT, max_tokens=1)
    time.sleep(max(0.0, (datetime.fromisoformat(soon) - datetime.now(UTC)).total_seconds()) + 0.1)
    with pytest.raises(openai.AuthenticationError) as expired:
        stage.client(short["secret"]).models.list()
    assert expired.value.code == "expired_api_key"


def test_every_request_is_in_the_record(stage: Stage) -> None:
    def recorded() -> dict[str, int]:
        rows = [row for row in stage.ours.usage.summary()["data"] if row["key"] == NAME]
        names = ("num_requests", "prompt_tokens", "completion_tokens")
        return {name: rows[0][name] if rows else 0 for name in names}

    before = recorded()
    answer = completion(stage, max_tokens=5)
    list(completion(stage, max_tokens=5, stream=True))
    after = recorded()
    assert after["num_requests"] == before["num_requests"] + 2
    assert after["prompt_tokens"] == before["prompt_tokens"] + 2 * answer.usage.prompt_tokens
    assert after["completion_tokens"] == before["completion_tokens"] + 2 * answer.usage.completion_tokens


def test_a_stream_that_is_left_stops_the_engine(stage: Stage) -> None:
    def recorded() -> list[Any]:
        return list(stage.ours.usage.requests(limit=100).data)

    for _ in range(10):
        known = {row["id"] for row in recorded()}
        stream = completion(stage, max_tokens=240, n=8, temperature=1.0, seed=3, stream=True)
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 30
        while not (new := [row for row in recorded() if row["id"] not in known]):
            assert time.monotonic() < deadline, "the stream is not in the record"
            time.sleep(0.1)
        # A model as small as this one may be done with all of it before a busy machine gets around to hang up.
        if aborted := [row for row in new if row["aborted"]]:
            break
    else:
        pytest.fail("the record does not say of any stream that it was left")
    # 1,920 tokens were asked for; what was generated until the client went is counted, the rest was never made.
    assert 0 < aborted[0]["completion_tokens"] < 1900
    assert aborted[0]["prompt_tokens"] == stage.count(PROMPT)
    assert completion(stage, max_tokens=2).usage.completion_tokens <= 2


ADDRESS: Any = {
    "type": "object",
    "properties": {"street": {"type": "string", "maxLength": 12}, "number": {"type": "integer"}},
    "required": ["street", "number"],
    "additionalProperties": False,
}


def test_responses_go_on_from_each_other_whole_and_streamed(stage: Stage) -> None:
    client = stage.openai
    fields: Any = {"model": NAME, "temperature": 0, "max_output_tokens": 8}
    first = client.responses.create(**fields, input="Where is the river?")
    with client.responses.stream(**fields, input="Where is the river?") as stream:
        *_, last = stream
    assert last.type == "response.incomplete"
    assert last.response.output_text == first.output_text != ""
    assert last.response.incomplete_details == first.incomplete_details
    counted = client.responses.input_tokens.count(model=NAME, input="And now?", previous_response_id=first.id)
    second = client.responses.create(**fields, input="And now?", previous_response_id=first.id)
    assert first.usage is not None
    assert second.usage is not None
    assert counted.input_tokens == second.usage.input_tokens > first.usage.input_tokens
    # What the model read is what a chat of the same turns reads.
    turns: Any = [
        {"role": "user", "content": "Where is the river?"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And now?"},
    ]
    same = client.chat.completions.create(model=NAME, messages=turns, temperature=0, max_tokens=8)
    assert same.choices[0].message.content == second.output_text
    assert same.usage is not None
    assert same.usage.prompt_tokens == counted.input_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text


def test_a_response_is_json_and_made_in_the_background(stage: Stage) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "address", "schema": ADDRESS, "strict": True}}
    promised = stage.openai.responses.create(model=NAME, input="Where?", text=form, background=True)
    assert promised.status == "queued"
    deadline = time.monotonic() + 60
    while (found := stage.openai.responses.retrieve(promised.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if found.status == "completed":
        answer = json.loads(found.output_text)
        assert set(answer) == {"street", "number"}
    else:
        # A model of this size may write digits until its context ends; then it says so.
        assert found.incomplete_details is not None


@pytest.fixture
def wide(stage: Stage, tmp_path: Path) -> Iterator[str]:
    """The same weights with a template that has a place for tools, and a context that holds one with its passages."""
    name, ours = "lab/wide", stage.ours
    version = ours.models.get(NAME)["version"]
    digest = next(file["digest"] for file in version["files"] if file["path"] == "config.json")
    config = json.loads(ours.blobs.download(digest, tmp_path / "config.json").read_text())
    texts = {
        "config.json": json.dumps({**config, "max_position_embeddings": 4096}),
        "chat_template.jinja": chat_template("", tools=True),
    }
    files = [file for file in version["files"] if file["path"] not in (*texts, "prompt_format.json")]
    for path, text in texts.items():
        stored = ours.blobs.upload(text.encode())
        files.append({"path": path, "digest": stored["digest"], "num_bytes": stored["num_bytes"]})
    ours.models.register(name, files, task="text-generation", level="L0", metadata={"context_length": 4096})
    before = {each["name"] for each in ours.deployments.list().data}
    ours.deployments.apply(name, model=name)
    wait_until_ready(ours, name)
    yield name
    # Others look at all that is deployed.
    ours.deployments.remove(name)
    deadline = time.monotonic() + 60
    while {each["name"] for each in ours.deployments.list().data} != before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ours.models.remove(name)


def test_a_model_searches_files_when_it_must(stage: Stage, wide: str) -> None:
    client = stage.openai
    store = client.vector_stores.create(name="rivers")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("rivers.txt", b"The river rises in spring. The river is low in autumn."),
        poll_interval_ms=200,
    )
    assert file.status == "completed", file.last_error
    fields: Any = {
        "model": wide,
        "input": "Where is the river?",
        "tools": [{"type": "file_search", "vector_store_ids": [store.id]}],
        "tool_choice": {"type": "file_search"},
        "include": ["file_search_call.results"],
        "max_output_tokens": 1200,
        "temperature": 0,
    }
    with client.responses.stream(**fields) as stream:
        events = list(stream)
    kinds, last = [event.type for event in events], events[-1]
    # A model of this size may write until its limit.
    assert last.type in ("response.completed", "response.incomplete"), last
    found = last.response
    call = found.output[0]
    assert call.type == "file_search_call"
    assert (call.status, call.results is not None) == ("completed", True), call
    assert 1 <= len(call.queries) <= 4
    assert kinds[2:7] == [
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
    ]
    assert found.usage is not None
    asked = [each for each in stage.ours.usage.requests(limit=3).data if each["endpoint"] == "/v1/responses"]
    assert sorted(each["model"] for each in asked) == [wide, wide, "space:rivers"]
    assert sum(each["prompt_tokens"] for each in asked) == found.usage.input_tokens
    client.vector_stores.delete(store.id)
    client.files.delete(file.id)


def test_anthropics_client_gets_the_same_answer(stage: Stage) -> None:
    with anthropic.Anthropic(base_url=stage.platform.url, api_key=stage.platform.key, max_retries=0) as client:
        turns: Any = [{"role": "user", "content": "Where is the river?"}]
        fields: Any = {"model": NAME, "max_tokens": 8, "messages": turns, "extra_body": {"temperature": 0}}
        message = client.messages.create(**fields)
        with client.messages.stream(**fields) as stream:
            streamed = stream.get_final_message()
        counted = client.messages.count_tokens(model=NAME, messages=turns)
        [block] = message.content
        assert block.type == "text"
        stop = block.text[3:6]
        cut = client.messages.create(**fields, stop_sequences=["never", stop])
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**fields, "model": "lab/none"})
    same = chat(stage, max_tokens=8)
    assert block.text == same.choices[0].message.content
    assert [each.text for each in streamed.content if each.type == "text"] == [block.text]
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == same.usage.prompt_tokens


def test_langchain_drives_chats_responses_forms_completions_and_messages(stage: Stage) -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI, OpenAI

    class Reading(pydantic.BaseModel):
        """Of a gauge."""

        gauge: Literal["north", "south"]
        metres: int = pydantic.Field(ge=0, le=9)

    address: Any = {"base_url": f"{stage.platform.url}/v1", "api_key": stage.platform.key, "max_retries": 0}
    asked: Any = {**address, "model": NAME, "temperature": 0, "max_tokens": 12}
    expected = chat(stage, max_tokens=12)
    words = expected.choices[0].message.content
    question = "Where is the river?"
    for model in (ChatOpenAI(**asked, stream_usage=True), ChatOpenAI(**asked, use_responses_api=True)):
        whole = model.invoke(question)
        assert (whole.text, whole.usage_metadata["output_tokens"]) == (words, expected.usage.completion_tokens)
        steps = [*model.stream(question)]
        assert len([step for step in steps if step.text]) > 1
        assert "".join(step.text for step in steps) == words
        assert sum(step.usage_metadata["input_tokens"] for step in steps if step.usage_metadata) == expected.usage.prompt_tokens
    sampled = {**asked, "temperature": 1, "max_tokens": 60, "seed": 1}
    found = ChatOpenAI(**sampled).with_structured_output(Reading).invoke(question)
    assert isinstance(found, Reading)
    assert OpenAI(**asked).invoke(PROMPT) == completion(stage).choices[0].text
    theirs = ChatAnthropic(
        model_name=NAME,
        base_url=stage.platform.url,
        api_key=stage.platform.key,
        temperature=0,
        max_tokens_to_sample=12,
        max_retries=0,
    )
    assert theirs.invoke(question).text == words
    assert "".join(step.text for step in theirs.stream(question)) == words
