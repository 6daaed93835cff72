"""Parameters and options."""

from typing import Any

import pytest
from pydantic import ValidationError

from modelworks.capabilities.text.schemas import (
    PRESETS,
    AdapterParams,
    DistillationParams,
    EvaluateParams,
    LabelParams,
    LoraParams,
    PreferenceParams,
    PretrainParams,
    ReinforcementParams,
    ServeOptions,
    SupervisedParams,
    TrainParams,
)


def test_a_preset_fills_in_what_is_not_given() -> None:
    params = PretrainParams(preset="small", num_layers=2)
    assert (params.num_layers, params.hidden_size, params.vocab_size) == (2, 256, 8192)
    for name in PRESETS:
        PretrainParams(preset=name)


def test_a_number_of_tokens_decides_the_steps() -> None:
    params = PretrainParams(batch_size=4, context_length=256, tokens=10_240)
    assert params.tokens_per_step == 1024
    assert params.num_steps == 10
    assert PretrainParams(tokens=1).num_steps == 1
    assert PretrainParams(steps=7).num_steps == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "huge"},
        {"preset": 3},
        {"num_heads": 4, "num_kv_heads": 3},
        {"head_dim": 33},
        {"context_length": 128, "block_length": 256},
        {"learning_rate": 0},
        {"steps": 0},
        {"level": "L7"},
        {"hidden": 128},
    ],
)
def test_wrong_training_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PretrainParams.model_validate(wrong)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        ServeOptions.model_validate({"precision": "int3"})
    with pytest.raises(ValidationError, match="stride"):
        EvaluateParams(window=8, stride=8)


def test_every_parameter_is_explained() -> None:
    training = (
        PretrainParams,
        SupervisedParams,
        LoraParams,
        PreferenceParams,
        DistillationParams,
        ReinforcementParams,
        AdapterParams,
    )
    for schema in (*training, ServeOptions, EvaluateParams, LabelParams):
        for name, field in schema.model_fields.items():
            assert field.description, f"{schema.__name__}.{name}"


def test_the_method_decides_which_parameters_there_are() -> None:
    assert isinstance(TrainParams.model_validate({"preset": "small"}).root, PretrainParams)
    for kind in (SupervisedParams, LoraParams, PreferenceParams, DistillationParams, PretrainParams):
        params = kind()
        assert type(TrainParams.model_validate(params.model_dump(mode="json")).root) is kind
        assert TrainParams(params).model_dump() == params.model_dump()
    for wrong in ({"method": "supervised", "rank": 4}, {"method": "lora", "level": "L9"}, {"method": "magic"}, {"beta": 1}):
        with pytest.raises(ValidationError):
            TrainParams.model_validate(wrong)
    names = {next(iter(each.values())).rpartition("/")[2] for each in TrainParams.model_json_schema()["oneOf"]}
    assert names == {
        "CombineParams",
        "PretrainParams",
        "SupervisedParams",
        "LoraParams",
        "PreferenceParams",
        "DistillationParams",
        "ReinforcementParams",
    }
