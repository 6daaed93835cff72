"""The declaration of capability `text`."""

from __future__ import annotations

from modelworks.capabilities.text.datasets.params import CleanParams, ValidateParams
from modelworks.capabilities.text.schemas import (
    EvaluateParams,
    ExportParams,
    LabelParams,
    QuantiseParams,
    ServeOptions,
    TrainParams,
)
from modelworks.contract import Capability, Resources, Task
from modelworks.contract.generation import GenerationChunk, GenerationInput

_PACKAGE = "modelworks.capabilities.text"

capability = Capability(
    name="text",
    summary="Language models: train one from plain text, evaluate it, and chat with any causal model.",
    package=_PACKAGE,
    extra="text",
    tasks=(
        Task(
            name="text-generation",
            mode="stream",
            input=GenerationInput,
            output=GenerationChunk,
            predictor=f"{_PACKAGE}.serve:Generator",
            predictors={
                "openvino": f"{_PACKAGE}.serve:OpenVINOGenerator",
                "transformers": f"{_PACKAGE}.serve:TransformersGenerator",
            },
            servers={"vllm": f"{_PACKAGE}.engines.vllm:command"},
            options=ServeOptions,
            validator=f"{_PACKAGE}.datasets.validation:validate",
            validate_params=ValidateParams,
            cleaner=f"{_PACKAGE}.datasets.cleaning:clean",
            clean_params=CleanParams,
            labeler=f"{_PACKAGE}.label:label",
            label_params=LabelParams,
            grader=f"{_PACKAGE}.grading.opening:open_grader",
            trainer=f"{_PACKAGE}.train:train",
            train_params=TrainParams,
            train_inputs=("train",),
            estimator=f"{_PACKAGE}.estimate:estimate",
            quantiser=f"{_PACKAGE}.quantise:quantise",
            quantise_params=QuantiseParams,
            distributed=True,
            exporter=f"{_PACKAGE}.export:export_model",
            export_params=ExportParams,
            importers={
                ".gguf": f"{_PACKAGE}.gguf_import:import_gguf",
                "meaning.json": f"{_PACKAGE}.meaning:check_exported",
            },
            evaluator=f"{_PACKAGE}.evaluate:evaluate",
            evaluate_params=EvaluateParams,
            metrics=("loss", "perplexity", "bits_per_byte"),
            optional_metrics=(
                *("reward", "reward_low", "reward_high", "pass_rate", "grader_failures"),
                *("exact_match", "chrf", "rouge_l", "bleu", "sentence_bleu", "json_valid", "accuracy"),
                *("tool_accuracy", "pass_at_1", "pass_at_10", "pass_at_100"),
            ),
            lower_is_better=("loss", "perplexity", "bits_per_byte", "grader_failures"),
            resources=Resources(cpu=1.0, memory_bytes=2 << 30),
        ),
    ),
)
