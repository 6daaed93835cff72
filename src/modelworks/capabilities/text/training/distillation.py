"""Distillation (Hinton, Vinyals & Dean 2015): how likely a teacher finds every token, as something to learn beside the answers.

Shape suffixes: b rows, t positions, k positions in which something is learnt, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import DistillationParams
from modelworks.capabilities.text.training.batches import learnt_columns, losses_of, token_logits
from modelworks.capabilities.text.training.loop import Batch
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import Run


def teacher_of(run: Run, student: PromptFormat) -> Any:
    """The teacher's graph, which is never trained.

    Raises:
        InvalidRequest: there is no teacher, or its ids mean other tokens than the student's.
        IntegrityFailed: it is not spoken to as it was trained.
    """
    if not run.has_input("teacher"):
        raise InvalidRequest(
            "The method 'distillation' needs a teacher.",
            hint="Give a model under the role teacher: --base teacher=NAME.",
            param="inputs.teacher",
        )
    teacher = run.model("teacher")
    found = served_format(teacher)
    if found.tokenizer_digest != student.tokenizer_digest:
        raise InvalidRequest(
            f"The teacher {teacher.ref!r} has another tokenizer than the base model: {found.tokenizer_digest[7:19]} instead of "
            f"{student.tokenizer_digest[7:19]}. Its logits speak of other tokens.",
            hint="Use models of one family, or let the teacher write the answers instead: modelworks data label.",
            param="inputs.teacher",
            code="tokenizer_differs",
        )
    model = load_model(teacher.path, torch.float32)
    model.requires_grad_(False)
    return model.eval()


class Distillation:
    """The objective: (1 - share) x cross-entropy of the answers + share x T^2 x KL(teacher / T || student / T), per token.

    T^2 keeps the gradients of both parts of one size, whatever the temperature. A vocabulary may be padded to another width in
    either model: only the tokenizer's own ids are compared.
    """

    def __init__(self, teacher: Any, num_tokens: int, params: DistillationParams) -> None:
        self._teacher = teacher
        self._num_tokens = num_tokens
        self._temperature = params.temperature
        self._share = params.teacher_share

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]:
        columns_k = learnt_columns(batch.tensors["weights"])
        weights_bk = batch.tensors["weights"][:, columns_k]
        logits_bkv = token_logits(model, batch, columns_k)
        answers = (losses_of(logits_bkv, batch, columns_k) * weights_bk).sum()
        divergence = (self._divergences(logits_bkv, batch, columns_k) * weights_bk).sum()
        further = {"cross_entropy": float(answers.detach()), "divergence": float(divergence.detach())}
        return (1 - self._share) * answers + self._share * divergence, further

    def _divergences(self, logits_bkv: torch.Tensor, batch: Batch, columns_k: torch.Tensor) -> torch.Tensor:
        """T^2 x KL(teacher || student) at each position in nats, bk f32."""
        with torch.no_grad():
            theirs_bkv = token_logits(self._teacher, batch, columns_k)[..., : self._num_tokens]
            expected_bkv = functional.log_softmax(theirs_bkv / self._temperature, dim=-1)
        found_bkv = functional.log_softmax(logits_bkv[..., : self._num_tokens] / self._temperature, dim=-1)
        each_bkv = functional.kl_div(found_bkv, expected_bkv, reduction="none", log_target=True)
        return each_bkv.sum(dim=-1) * self._temperature**2
