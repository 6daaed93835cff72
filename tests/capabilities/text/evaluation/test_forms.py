"""Measuring conversations and multiple choice, and what is written down of each sample."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.evaluate import evaluate, form_of
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.evaluation.writing import Writer
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import EvaluateParams
from modelworks.capabilities.text.tokenizer import load_tokenizer
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SampleResult
from modelworks.testing.fake_run import FakeRun

CHATS = [
    [("user", "Where is the river?"), ("assistant", "It is in the valley.")],
    [("system", "Be brief."), ("user", "雪呢？"), ("assistant", "山上。"), ("user", "And?"), ("assistant", '{"snow": true}')],
    [("user", "Bye."), ("assistant", "Goodbye.")],
]


def write(folder: Path, *records: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


def chat_records() -> list[dict[str, Any]]:
    return [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in CHATS]


def run_on(root: Path, model: Any, data: Path) -> FakeRun:
    return FakeRun(root / "run", models={"model": model}, datasets={"test": data})


def samples_of(run: FakeRun) -> list[SampleResult]:
    (saved,) = run.saved
    assert saved.kind == "report"
    return [SampleResult.model_validate_json(line) for line in saved.path.read_text("utf-8").splitlines()]


def test_chats_count_the_answers_tokens_after_what_serving_would_give(tmp_path: Path, model: LocalModel) -> None:
    run = run_on(tmp_path, model, write(tmp_path / "data", *chat_records()))
    metrics = evaluate(run, EvaluateParams(max_answers=0, num_threads=1))
    assert set(metrics) == {"loss", "perplexity", "bits_per_byte"}
    tokenizer = load_tokenizer(model.path)
    network = load_model(model.path, torch.float32)
    nats, num_tokens = 0.0, 0
    for chat in CHATS:
        for place, (role, content) in enumerate(chat):
            if role != "assistant":
                continue
            before = [{"role": each, "content": text} for each, text in chat[:place]]
            prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True, tokenize=False)
            asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            answer = tokenizer(content + "<|im_end|>", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = network(input_ids=torch.tensor([asked + answer])).logits[0].log_softmax(-1)
            nats -= sum(float(logprobs[len(asked) - 1 + step, token]) for step, token in enumerate(answer))
            num_tokens += len(answer)
    assert metrics["loss"] == pytest.approx(nats / num_tokens, rel=1e-4)
    num_bytes = sum(sample.values["bits_per_byte"][1] for sample in samples_of(run))
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-4)


def test_the_first_chats_are_answered_and_scored(tmp_path: Path, model: LocalModel) -> None:
    run = run_on(tmp_path, model, write(tmp_path / "data", *chat_records()))
    metrics = evaluate(run, EvaluateParams(max_answers=2, max_answer_tokens=6, num_threads=1))
    texts = {"exact_match", "chrf", "rouge_l", "sentence_bleu", "bleu", "json_valid"}
    assert set(metrics) == {"loss", "perplexity", "bits_per_byte", *texts}
    first, second, third = samples_of(run)
    assert [each.sample for each in (first, second, third)] == ["data.jsonl:1", "data.jsonl:2", "data.jsonl:3"]
    assert "answer" in first.detail
    assert "json_valid" in second.values
    assert "json_valid" not in first.values
    assert set(third.values) == {"loss", "bits_per_byte"}
    assert metrics["chrf"] == pytest.approx((first.values["chrf"][0] + second.values["chrf"][0]) / 2)
    assert "bleu" not in first.values, "it is no mean over samples"


@pytest.fixture
def with_tools(tmp_path: Path, model: LocalModel) -> Path:
    """The model with a template that has a place for tools, and for calls."""
    folder = tmp_path / "with-tools"
    folder.mkdir()
    for file in model.path.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "prompt_format.json").unlink()
    template = (
        "{%- for tool in tools or [] -%}<|im_start|>system\n{{ tool | tojson }}<|im_end|>\n{%- endfor -%}"
        "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{%- for call in message.tool_calls or [] -%}<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}"
        "<|im_end|>\n{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def says(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[list[int]]:
    """Put answers into the model's mouth; returns the prompts that it is given."""
    left, prompts = iter(answers), []

    def answer(_self: Writer, ids: list[int], **_: Any) -> str:
        prompts.append(list(ids))
        return next(left)

    monkeypatch.setattr(Writer, "answer", answer)
    return prompts


REQUESTS = [
    {
        "id": f"simple_{number}",
        "question": [[{"role": "user", "content": f"Add {number} and 2."}]],
        "function": [
            {
                "name": "add",
                "parameters": {
                    "type": "dict",
                    "properties": {"a": {"type": "float"}, "b": {"type": "float"}},
                    "required": ["a"],
                },
            }
        ],
        "ground_truth": truth,
    }
    for number, truth in enumerate([[{"add": {"a": [0.0], "b": [2.0]}}], [{"add": {"a": [1.0], "b": [2.0]}}], []])
]


@pytest.mark.parametrize("place", [True, False])
def test_requests_that_functions_answer(
    tmp_path: Path, model: LocalModel, with_tools: Path, monkeypatch: pytest.MonkeyPatch, place: bool
) -> None:
    """With a template that has a place for tools, and with one that has none."""
    prompts = says(monkeypatch, '[{"name": "add", "arguments": {"a": 0, "b": 2}}]', "add(a=1, b=3)", "There is nothing to add.")
    data = write(tmp_path / "data", *REQUESTS)
    assert form_of(data) == "tools"
    run = run_on(tmp_path, with_tools if place else model, data)
    metrics = evaluate(run, EvaluateParams(num_threads=1))
    assert metrics["tool_accuracy"] == pytest.approx(2 / 3)
    first, second, third = samples_of(run)
    assert [each.values["tool_accuracy"] for each in (first, second, third)] == [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    assert second.detail["fault"] == "b is 3"
    assert first.values["loss"][1] > 5, "the right call's tokens are counted"
    asked = load_tokenizer(model.path).decode(prompts[0])
    assert '"type": "object"' in asked
    assert '"type": "number"' in asked
    assert ("You can call the functions below" in asked) is not place
    assert "user\nAdd 0 and 2.<|im_end|>" in asked
    assert asked.rstrip().endswith("<|im_start|>assistant")


def test_chats_that_end_with_calls_are_compared_call_by_call(
    tmp_path: Path, with_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]
    calls = [{"id": f"c{name}", "type": "function", "function": {"name": name, "arguments": '{"x": 1}'}} for name in ("f", "g")]
    chat = {
        "messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": None, "tool_calls": calls}],
        "tools": tools,
    }
    says(monkeypatch, "[g(x=1), f(x=1)]", "[f(x=1)]", "[f(x=1), g(x=2)]")
    run = run_on(tmp_path, with_tools, write(tmp_path / "data", chat, chat, chat))
    metrics = evaluate(run, EvaluateParams(num_threads=1))
    assert [sample.values["tool_accuracy"][0] for sample in samples_of(run)] == [1.0, 0.0, 0.0]
    assert "bleu" not in metrics


def test_answers_are_the_greedy_ones_and_end_where_serving_ends(model: LocalModel) -> None:
    network, prompt_format = load_model(model.path, torch.float32), PromptFormat.of(model.path)
    prompt = prompt_format.tokenizer("The river", add_special_tokens=False)["input_ids"]
    expected = network.generate(
        torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=list(prompt_format.stop_ids), pad_token_id=0
    )[0, len(prompt) :]
    wanted = prompt_format.tokenizer.decode(expected, skip_special_tokens=True)
    assert Writer(network, prompt_format, 128, 10).answer(prompt) == wanted
    assert wanted
    stopping = PromptFormat(prompt_format.tokenizer, None, "", (int(expected[2]),), prompt_format.vocab_size)
    cut = prompt_format.tokenizer.decode(expected[: expected.tolist().index(int(expected[2]))], skip_special_tokens=True)
    assert Writer(network, stopping, 128, 10).answer(prompt) == cut
    assert Writer(network, prompt_format, len(prompt), 10).answer(prompt) == ""


def test_multiple_choice_takes_the_likeliest(tmp_path: Path, model: LocalModel) -> None:
    """Made certain by a model that repeats one token whatever it reads."""
    biased = tmp_path / "biased"
    biased.mkdir()
    for file in model.path.iterdir():
        (biased / file.name).write_bytes(file.read_bytes())
    weights = {name: torch.zeros_like(value) for name, value in load_file(biased / "model.safetensors").items()}
    liked = load_tokenizer(model.path)("a", add_special_tokens=False)["input_ids"][0]
    # Every position holds the same vector; the head points to one token.
    weights["model.embed_tokens.weight"][:, 0] = 1.0
    weights["model.embed_tokens.weight"][liked, 0] = 9.0
    weights["model.norm.weight"][:] = 1.0
    save_file(weights, biased / "model.safetensors")
    questions = [
        {"question": "Which?", "choices": ["aaaa", "zq"], "answer": 0},
        {"question": "Which?", "choices": ["zq", "aaaa"], "answer": "B"},
        {"question": "Which?", "choices": ["zq", "aaaa"], "answer": "zq"},
        {"question": "Which?", "choices": ["zq", "aaaa"], "answer": "aaaa"},
    ]
    run = run_on(tmp_path, biased, write(tmp_path / "data", *questions))
    metrics = evaluate(run, EvaluateParams(num_threads=1))
    assert [sample.detail["chosen"] for sample in samples_of(run)] == [0, 1, 1, 1]
    assert metrics["accuracy"] == 0.75


def test_a_long_choice_is_not_at_a_loss(tmp_path: Path, model: LocalModel) -> None:
    """To a model that knows nothing each token is as likely as any other, so the longer choice always has the lower product."""
    blank = tmp_path / "blank"
    blank.mkdir()
    for file in model.path.iterdir():
        (blank / file.name).write_bytes(file.read_bytes())
    weights = load_file(blank / "model.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in weights.items()}, blank / "model.safetensors")
    question = {"question": "Which?", "choices": ["z", "the river and the river and the river"], "answer": 1}
    run = run_on(tmp_path, blank, write(tmp_path / "data", question))
    assert evaluate(run, EvaluateParams(num_threads=1))["accuracy"] == 1.0


def test_a_preference_is_met_where_the_chosen_answer_is_the_likelier(tmp_path: Path, model: LocalModel) -> None:
    asked = {"messages": [{"role": "user", "content": "Where?"}]}
    good, bad = ([{"role": "assistant", "content": text}] for text in ("The river is wide.", "zq#@!xv§§"))
    pairs = [(good, bad), (bad, good), (good, bad)]
    records = [{"input": asked, "preferred_output": one, "non_preferred_output": other} for one, other in pairs]
    data = write(tmp_path / "data", *records)
    assert form_of(data) == "preference"
    run = run_on(tmp_path, model, data)
    metrics = evaluate(run, EvaluateParams(num_threads=1))
    assert [sample.values["accuracy"][0] for sample in samples_of(run)] == [1.0, 0.0, 1.0]
    assert metrics["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"question": "", "choices": ["a", "b"], "answer": 0}, "question"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "choices"),
        ({"question": "q", "choices": ["a", 3], "answer": 0}, "choices"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "answer"),
    ],
)
def test_a_malformed_question_is_named_with_its_line(
    tmp_path: Path, model: LocalModel, record: dict[str, Any], field: str
) -> None:
    good = {"question": "q", "choices": ["a", "b"], "answer": 0}
    run = run_on(tmp_path, model, write(tmp_path / "data", good, record))
    with pytest.raises(InvalidData, match=f'data.jsonl:2: field "{field}"'):
        evaluate(run, EvaluateParams())
    assert run.saved == []


def test_the_form_is_seen_from_the_data(tmp_path: Path, documents: Path) -> None:
    assert form_of(write(tmp_path / "a", {"messages": []})) == "chat", "a fault in the first record is the reader's to name"
    assert form_of(write(tmp_path / "b", {"question": "q", "choices": [], "answer": 0})) == "choice"
    assert form_of(write(tmp_path / "c", {"text": "t"})) == "text"
    assert form_of(write(tmp_path / "d", {"instruction": "Say.", "input": "", "output": "Said."})) == "chat"
    assert form_of(documents) == "text"


def test_a_documents_part_in_the_loss_is_weighted_by_its_tokens(tmp_path: Path, model: LocalModel) -> None:
    data = write(tmp_path / "data", {"text": "The river is wide and long."}, {"text": "雪"})
    run = run_on(tmp_path, model, data)
    metrics = evaluate(run, EvaluateParams(num_threads=1))
    first, second = (sample.values["loss"] for sample in samples_of(run))
    assert first[1] > second[1]
    assert metrics["loss"] == pytest.approx((first[0] * first[1] + second[0] * second[1]) / (first[1] + second[1]))
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))


def test_nothing_measured_is_an_error() -> None:
    report = SampleReport()
    report.add("empty", nats=0.0, num_tokens=0, num_bytes=0)
    with pytest.raises(InvalidData, match="no token"):
        report.metrics()
