"""Training in bf16 and by compiled code."""

from pathlib import Path

import pytest
import torch
from tests.capabilities.text.conftest import TINY
from tests.capabilities.text.training.conftest import QUICK, tuned

from modelworks.capabilities.text import train
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import PrecisionParams, PretrainParams, SupervisedParams
from modelworks.capabilities.text.training import precision as precision_module
from modelworks.capabilities.text.training.precision import Precision
from modelworks.contract import LocalModel
from modelworks.contract.errors import Cancelled, InvalidRequest
from modelworks.testing.fake_run import FakeRun, digest_of

BF16 = PretrainParams(**{**TINY, "precision": "bf16"})


def losses_of(run: FakeRun) -> dict[int, float]:
    return {point.step: point.metrics["loss"] for point in run.logs if "loss" in point.metrics}


def test_bf16_learns_what_f32_learns_and_goes_on_where_it_stopped(tmp_path: Path, documents: Path, trained: FakeRun) -> None:
    whole = FakeRun(tmp_path / "a", datasets={"train": documents}, seed=7)
    train.pretrain(whole, BF16)
    assert losses_of(whole) != losses_of(trained), "it was not computed in bf16"
    assert losses_of(whole) == pytest.approx(losses_of(trained), rel=0.03)
    assert whole.saved[0].metadata["metrics"]["validation_loss"] == pytest.approx(
        trained.saved[0].metadata["metrics"]["validation_loss"], rel=0.03
    )
    first = FakeRun(tmp_path / "b", datasets={"train": documents}, seed=7, cancel_at=10)
    with pytest.raises(Cancelled):
        train.pretrain(first, BF16)
    second = FakeRun(tmp_path / "b", datasets={"train": documents}, seed=7, resume_from=first.checkpoints[-1].path)
    train.pretrain(second, BF16)
    assert digest_of(second.saved[0].path) == digest_of(whole.saved[0].path)


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_that_is_slower_than_f32_is_told(
    fast: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision_module, "_multiplies_bf16", lambda: fast)
    Precision(PrecisionParams(precision="bf16"))
    assert ("precision=f32 is many times as fast" in caplog.text) is not fast


def test_steps_that_bf16_would_lose_are_kept() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    precision = Precision(PrecisionParams(precision="bf16"))
    computed = precision.of(layer)
    for _ in range(8):
        with torch.no_grad():
            layer.weight += 2**-10  # a quarter of what separates 1 from the next number of bf16, 1 + 2**-7, is 2**-9
        precision.follow()
    assert layer.weight.item() == 1 + 2**-7
    assert computed.weight.item() == 1 + 2**-7
    assert computed.weight.dtype == torch.bfloat16


def test_positions_turn_by_the_same_angles(model: LocalModel) -> None:
    """What is served computes them in f32; a training with others would learn them and lose by it."""
    whole = load_model(model.path, torch.float32)
    low = Precision(PrecisionParams(precision="bf16")).of(whole)
    buffers = dict(whole.named_buffers())
    assert buffers
    for name, buffer in low.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    assert low.lm_head.weight is low.model.embed_tokens.weight, "tied weights stay one"


def test_gradients_of_several_batches_are_added_up_in_f32() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    precision = Precision(PrecisionParams(precision="bf16"))
    computed = precision.of(layer)
    for value in (256.0, 1.0):
        computed(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
        precision.gather()
    assert layer.weight.grad is not None
    assert layer.weight.grad.item() == 257.0, "257 is no number of bf16"


def test_compiled_code_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head and its loss: a whole model takes the compiler half a minute, and nothing else happens in it."""
    import torch._inductor.config as inductor

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    # Otherwise each set of vector instructions that the processor names is tried with a program of its own: half of the time.
    monkeypatch.setattr(inductor.cpp, "vec_isa_ok", True)
    torch.manual_seed(1)
    head, states_nd = torch.nn.Linear(8, 32), torch.randn(16, 8)
    targets_n = torch.randint(0, 32, (16,))

    def objective(model: torch.nn.Module, _: object) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.nn.functional.cross_entropy(model(states_nd).float(), targets_n, reduction="sum"), {}

    precision = Precision(PrecisionParams(compiled=True), tmp_path)
    model, fast = precision.of(head), precision.fast(objective)
    found = []
    for each in (objective, fast):
        head.zero_grad()
        loss, further = each(model, None)
        loss.backward()
        assert further == {}
        found.append((loss.detach(), head.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert list((tmp_path / "compiled").rglob("*.so")), "nothing was compiled, or not in the run's own folder"


def test_without_a_compiler_it_says_so(tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    run = FakeRun(tmp_path, datasets={"train": documents}, seed=7)
    with pytest.raises(InvalidRequest, match=r"compiled needs a C\+\+ compiler") as refused:
        train.pretrain(run, PretrainParams(**{**TINY, "compiled": True}))
    assert refused.value.param == "params.compiled"


def test_several_workers_train_in_f32(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="Several workers train in f32"):
        Precision(PrecisionParams(precision="bf16"), tmp_path, num_processes=2)


def test_conversations_are_learnt_in_bf16_with_the_best_weights_kept(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    """What is measured at the end is the best weights, in the copy as well."""
    params = SupervisedParams(
        **{**QUICK, "validation_fraction": 0.4},
        steps=40,
        learning_rate=5e-3,
        validate_every=5,
        checkpoint_every=5,
        patience=2,
        precision="bf16",
    )
    run = tuned(FakeRun(tmp_path, models={"base": model}, datasets={"train": talks}, seed=3), params)
    measured = [point.metrics["validation_loss"] for point in run.logs if "validation_loss" in point.metrics]
    assert len(measured) > 3
    assert run.saved[0].metadata["metrics"]["validation_loss"] == pytest.approx(min(measured[:-1]), rel=1e-6)
