"""Adapters loaded into a stand-in for vLLM that keeps to its documentation and computes with the real weights."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.capabilities.text.training.test_serving_adapters import changed, named
from transformers import AutoModelForCausalLM

from modelworks.capabilities.text.engines.adapter import file_digests
from modelworks.capabilities.text.engines.probe import Probe
from modelworks.capabilities.text.engines.vllm import command
from modelworks.capabilities.text.engines.vllm_adapters import TopLogprobs, VllmAdapters
from modelworks.capabilities.text.schemas import ServeOptions
from modelworks.contract import LocalModel
from modelworks.contract.adapter import AdapterHost
from modelworks.contract.errors import Unavailable
from modelworks.testing.fake_run import FakeRun

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

OPTIONS = ServeOptions(precision="f32", max_adapters=2, max_adapter_rank=8)


class StandIn:
    """vLLM's three endpoints, as documented, over transformers and peft.

    `fault` is what it does wrong: "ignores" (says that it has loaded and answers as the base), "trembles" (as well, and no two
    answers are alike), "mute" (no log-probabilities), "doubles" (loads each adapter with twice its weight).
    """

    def __init__(self, model: LocalModel) -> None:
        self.fault = ""
        self.calls: list[tuple[str, str]] = []
        self.adapters: dict[str, Any] = {}
        self._path = model.path
        self._models = {model.ref: AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()}
        self._asked = 0
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = stand_in.answer(self.path, body)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def serve(self, name: str) -> None:
        """Answer under another name."""
        self._models = {name: next(iter(self._models.values()))}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.calls.append((path, str(body.get("lora_name", body.get("model")))))
        if path == "/v1/started":
            self.adapters.clear()
            return 200, {}
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], Path(body["lora_path"]))
        if path == "/v1/unload_lora_adapter":
            if self.adapters.pop(body["lora_name"], None) is None:
                return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
            return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."
        assert path == "/v1/completions"
        model = self.adapters.get(body["model"]) or self._models.get(body["model"])
        if model is None:
            return _error(404, f"The model `{body['model']}` does not exist.")
        assert (body["max_tokens"], body["temperature"], body["return_tokens_as_token_ids"]) == (1, 0, True)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([body["prompt"]])).logits[0, -1].float()
        if self.fault == "trembles":
            self._asked += 1
            logits = logits + 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(self._asked))
        values, ids = torch.log_softmax(logits, -1).topk(body["logprobs"])
        top = {f"token_id:{token}": value for token, value in zip(ids.tolist(), values.tolist(), strict=True)}
        logprobs = None if self.fault == "mute" else {"top_logprobs": [top], "tokens": [next(iter(top))]}
        return 200, {"choices": [{"index": 0, "text": "", "logprobs": logprobs, "finish_reason": "length"}]}

    def _load(self, name: str, path: Path) -> tuple[int, Any]:
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return _error(404, f"No adapter found for {path}")
        base = AutoModelForCausalLM.from_pretrained(self._path, dtype=torch.float32).eval()
        if self.fault in ("ignores", "trembles"):
            self.adapters[name] = base
        else:
            loaded = PeftModel.from_pretrained(base, str(path)).eval()
            if self.fault == "doubles":
                for key, value in loaded.named_parameters():
                    if "lora_B" in key:
                        value.data.mul_(2)
            self.adapters[name] = loaded
        return 200, f"Success: LoRA adapter '{name}' added successfully."


def _error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


@pytest.fixture(scope="module")
def adapter(lora: FakeRun) -> LocalModel:
    return named(lora, "first")


@pytest.fixture
def stand_in(model: LocalModel) -> Iterator[StandIn]:
    server = StandIn(model)
    yield server
    server.close()


@pytest.fixture
def host(model: LocalModel, stand_in: StandIn) -> VllmAdapters:
    return VllmAdapters(model, OPTIONS, stand_in.url)


def code(host: VllmAdapters, adapter: LocalModel) -> tuple[str | None, str, str]:
    """Why it is refused: the code, the message, the hint."""
    error = host.load_adapters([adapter])[adapter.version_id]
    return error.error_code, error.message, error.hint or ""


def test_an_adapter_is_loaded_under_its_versions_id_proved_and_unloaded(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel, model: LocalModel
) -> None:
    assert isinstance(host, AdapterHost)
    assert host.load_adapters([adapter]) == {}
    assert list(stand_in.adapters) == [adapter.version_id]
    assert stand_in.calls[-2:] == [("/v1/load_lora_adapter", adapter.version_id), ("/v1/completions", adapter.version_id)]
    # A second wish asks nothing.
    before = len(stand_in.calls)
    assert host.load_adapters([adapter]) == {}
    assert len(stand_in.calls) == before
    host.unload_adapters([adapter.version_id, "mdl_UNKNOWN"])
    assert stand_in.adapters == {}
    assert host.load_adapters([adapter]) == {}


def test_sixteen_bits_are_held_to_their_own_tolerance(model: LocalModel, stand_in: StandIn, adapter: LocalModel) -> None:
    host = VllmAdapters(model, ServeOptions(max_adapters=1), stand_in.url)
    assert host.load_adapters([adapter]) == {}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("fault", ["ignores", "trembles"])
def test_a_load_that_changes_nothing_is_refused_and_undone(
    model: LocalModel, stand_in: StandIn, adapter: LocalModel, fault: str, precision: str
) -> None:
    host = VllmAdapters(model, OPTIONS.model_copy(update={"precision": precision}), stand_in.url)
    stand_in.fault = fault
    found, message, hint = code(host, adapter)
    assert found == "adapter_changes_nothing"
    assert "differ from the base's by" in message
    assert "merged" in hint
    assert stand_in.adapters == {}
    # The next try is a real one.
    stand_in.fault = ""
    assert host.load_adapters([adapter]) == {}


def test_an_adapter_that_answers_otherwise_than_trained_is_refused_with_the_difference(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel
) -> None:
    stand_in.fault = "doubles"
    found, message, _ = code(host, adapter)
    assert found == "trained_weights_differ"
    assert "where 0.0" in message
    assert stand_in.adapters == {}


def test_an_answer_that_is_no_nearer_to_the_trained_one_than_the_bases_is_refused_whatever_the_precision_allows(
    model: LocalModel, stand_in: StandIn, adapter: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = VllmAdapters(model, ServeOptions(max_adapters=1), stand_in.url)
    probe = Probe((1, 2), {0: 9.0, 1: 8.0}, 1.0)
    plain = TopLogprobs({0: -1.0, 1: -2.0})
    answers = iter([plain, plain, TopLogprobs({0: -1.0, 1: -3.5})])
    monkeypatch.setattr(host, "_ask", lambda name, probe: next(answers))
    found, message, _ = code(host, adapter.model_copy(update={"metadata": adapter.metadata | {"probe": probe.record()}}))
    assert found == "trained_weights_differ"
    assert "differ by 0.75 from those of the trained graph, where 1 is allowed and the base alone differs by 0." in message
    assert stand_in.adapters == {}


def test_an_adapter_without_effect_is_refused(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel, tmp_path: Path
) -> None:
    empty = changed(adapter, tmp_path, lambda weights: {name: torch.zeros_like(value) for name, value in weights.items()})
    assert code(host, empty)[0] == "adapter_changes_nothing"
    assert stand_in.adapters == {}


def test_other_files_another_base_and_another_format_are_refused_before_anything_is_loaded(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel, tmp_path: Path
) -> None:
    other = changed(adapter, tmp_path, lambda weights: {name: value + 1 for name, value in weights.items()})
    assert code(host, other.model_copy(update={"metadata": adapter.metadata}))[0] == "adapter_changed"
    record = adapter.metadata["adapter"]
    foreign = adapter.metadata | {"adapter": record | {"base_digest": "sha256:" + "0" * 64}}
    assert code(host, adapter.model_copy(update={"metadata": foreign}))[0] == "adapter_of_another_base"
    told = adapter.metadata["prompt_format"]
    for part, value in (("template", "0" * 64), ("stop_ids", [*told["stop_ids"], 7])):
        spoken = adapter.metadata | {"prompt_format": told | {part: value}}
        assert code(host, adapter.model_copy(update={"metadata": spoken}))[0] == "prompt_format_changed", part
    assert stand_in.calls == []


def rewritten(adapter: LocalModel, folder: Path, **config: Any) -> LocalModel:
    """An adapter with another configuration, whose record says that it was trained so."""
    shutil.copytree(adapter.path / "adapter", folder / "adapter")
    file = folder / "adapter" / "adapter_config.json"
    file.chmod(0o644)
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    record = adapter.metadata["adapter"] | {"files": file_digests(folder / "adapter")}
    return adapter.model_copy(update={"path": folder, "metadata": adapter.metadata | {"adapter": record}})


def test_dora_and_too_large_ranks_are_refused_with_what_to_do(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel, tmp_path: Path
) -> None:
    _, message, hint = code(host, rewritten(adapter, tmp_path / "dora", use_dora=True))
    assert "use_dora" in message
    assert hint == "Deploy its merged weights."
    found, _, hint = code(host, rewritten(adapter, tmp_path / "rank", r=9))
    assert (found, hint) == ("adapter_rank_too_large", "Deploy with max_adapter_rank of at least 9.")
    assert stand_in.calls == []


def test_there_is_room_for_as_many_as_were_asked_for_and_one_that_follows_an_alias(
    host: VllmAdapters, adapter: LocalModel
) -> None:
    several = [adapter.model_copy(update={"version_id": f"mdl_{number}"}) for number in range(4)]
    refused = host.load_adapters(several)
    assert {version_id: error.error_code for version_id, error in refused.items()} == {"mdl_3": "too_many_adapters"}
    host.unload_adapters(["mdl_0"])
    assert host.load_adapters(several[3:]) == {}


def test_a_load_whose_answer_was_lost_reads_the_files_again(host: VllmAdapters, stand_in: StandIn, adapter: LocalModel) -> None:
    stand_in.adapters[adapter.version_id] = object()
    assert host.load_adapters([adapter]) == {}
    loads = [path for path, name in stand_in.calls if name == adapter.version_id]
    assert loads == [
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/load_lora_adapter"),
        "/v1/completions",
    ]


def test_what_vllm_answers_is_told(
    host: VllmAdapters, stand_in: StandIn, adapter: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.fault = "mute"
    assert code(host, adapter)[0] == "adapter_not_verified"
    stand_in.fault = ""
    monkeypatch.setattr(stand_in, "_load", lambda name, path: _error(400, "LoRA rank 8 is greater than max_lora_rank 4."))
    found, message, _ = code(host, adapter)
    assert found == "adapter_not_loaded"
    assert "max_lora_rank 4. (HTTP 400)" in message
    stand_in.close()
    error = host.load_adapters([adapter])[adapter.version_id]
    assert isinstance(error, Unavailable)


def test_the_command_opens_it(
    model: LocalModel, stand_in: StandIn, adapter: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", "/opt/vllm/bin/python")
    said = command(model, OPTIONS)
    assert said.adapters is not None
    assert said.adapters(stand_in.url).load_adapters([adapter]) == {}


Numbers = dict[int, float]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({0: -1.0, 1: -2.0, 2: -5.0}, 0.0),
        # The same logits with another sum of exponents.
        ({0: -3.0, 1: -4.0, 2: -7.0}, 0.0),
        ({0: -1.0, 1: -2.5, 2: -5.0}, 0.25),
        # Token 1 is not listed, so it is no likelier than the least likely one that is.
        ({0: -1.0, 3: -4.0}, 1.0),
        ({3: -4.0}, float("inf")),
    ],
)
def test_log_probabilities_are_compared_with_logits_whatever_their_sum(listed: Numbers, expected: float) -> None:
    probe = Probe((1,), {0: 9.0, 1: 8.0, 2: 5.0}, 1.0)
    assert TopLogprobs(listed).difference(probe) == pytest.approx(expected)


def test_a_token_that_left_the_list_has_moved() -> None:
    moved: Callable[[Numbers, Numbers], float] = lambda one, other: TopLogprobs(one).moved_from(TopLogprobs(other))  # noqa: E731
    assert moved({0: -1.0, 1: -2.0}, {0: -1.0, 1: -2.0}) == 0.0
    assert moved({0: -1.0, 1: -2.0}, {0: -1.0, 1: -2.5}) == pytest.approx(0.5)
    assert moved({0: -1.0, 1: -2.0}, {0: -1.0, 2: -4.0}) == pytest.approx(2.0)
