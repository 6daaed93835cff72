"""The objective of group relative policy optimisation (Shao et al. 2024).

Shape suffixes: b rows, t positions, k columns in which something is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from modelworks.capabilities.text.training.batches import collate
from modelworks.capabilities.text.training.loop import Batch
from modelworks.capabilities.text.training.rows import Row

#: What is told of a set of answers beside the loss, in the order of the tensor `figures`.
FIGURES = (
    "reward",
    "reward_std",
    "answer_tokens",
    "cut_answers",
    "without_signal",
    "grader_failures",
    "entropy",
)

LengthWeighting = Literal["constant", "token", "answer"]


def advantages(rewards: Sequence[float], *, scale: bool) -> list[float]:
    """By how much each answer's reward exceeds the mean of its group; over the deviation too where `scale` is set.

    Without it a group counts by how far its rewards lie apart; with it, one in which a single answer of many differs counts as
    much as any other.
    """
    mean = sum(rewards) / len(rewards)
    above = [reward - mean for reward in rewards]
    if not scale:
        return above
    deviation = (sum(each * each for each in above) / len(above)) ** 0.5
    return [each / (deviation + 1e-6) for each in above]


def policy_batch(
    rows: Sequence[Row],
    gains: Sequence[float],
    figures: Mapping[str, float],
    *,
    weighting: LengthWeighting,
    max_tokens: int,
    keep_all: bool,
) -> Batch:
    """Answers as a batch: `advantages` b and `figures` beside what `collate` gives.

    Args:
        rows: prompts with answers; the answers' tokens have a weight.
        gains: the advantage of each.
        weighting: what the loss is a mean over.
        keep_all: keep rows without an advantage, which teach nothing but their likeness to the base model.
    """
    lengths = [sum(weight > 0 for weight in row.weights) for row in rows]
    weight = {"constant": float(len(rows) * max_tokens), "token": float(max(1, sum(lengths))), "answer": float(len(rows))}
    num_tokens = sum(len(row.ids) - 1 for row in rows)
    kept = [index for index, gain in enumerate(gains) if keep_all or (gain and lengths[index])]
    # The loss is a mean over all answers, whichever are computed; and something has to be.
    kept = kept or [0]
    chosen = [_weighted(rows[index], lengths[index] if weighting == "answer" else 1) for index in kept]
    batch = collate([[row] for row in chosen])
    more = {
        "advantages": torch.tensor([gains[index] for index in kept], dtype=torch.float32),
        "figures": torch.tensor([figures[name] for name in FIGURES], dtype=torch.float64),
    }
    return Batch({**batch.tensors, **more}, weight=weight[weighting], num_tokens=num_tokens)


def _weighted(row: Row, length: int) -> Row:
    return row if length <= 1 else Row(row.ids, tuple(weight / length for weight in row.weights))


def reward_batch(rewards: Sequence[float]) -> Batch:
    """Rewards alone, as a measurement: its loss is minus their sum, so that the lowest loss is the best model."""
    return Batch({"rewards": torch.tensor(rewards, dtype=torch.float64)}, weight=float(len(rewards)), num_tokens=0)


class Policy:
    """The objective: makes tokens of better answers likelier, within clipped ratios, and holds the model to its base.

    The distance from the base is half the squared log-ratio per token: its gradient is that of the reverse Kullback-Leibler
    divergence, unlike the gradient of the estimator that is commonly made small (Tang & Munos 2025). The curve `kl` is that
    common estimator, r - 1 - log r (Schulman 2020).
    """

    def __init__(self, *, beta: float, clip_low: float, clip_high: float, temperature: float) -> None:
        self._beta = beta
        self._low, self._high = 1 - clip_low, 1 + clip_high
        self._temperature = temperature

    def __call__(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float]]:
        if "rewards" in batch.tensors:
            rewards = batch.tensors["rewards"].sum()
            return -rewards, {"reward": float(rewards)}
        columns_k = learnt_columns(batch)
        weights_bk = batch.tensors["weights"][:, columns_k]
        likelihood_bk = log_likelihoods(model, batch, columns_k, self._temperature)
        before_bk = batch.tensors["before"] if "before" in batch.tensors else likelihood_bk.detach()
        gains_b1 = batch.tensors["advantages"][:, None]
        ratio_bk = (likelihood_bk - before_bk).exp()
        clipped_bk = ratio_bk.clamp(self._low, self._high)
        loss_bk = -torch.minimum(ratio_bk * gains_b1, clipped_bk * gains_b1)
        is_learnt_bk = (weights_bk > 0).float()
        num_learnt = float(is_learnt_bk.sum().clamp(min=1))
        further = {name: float(value) * batch.weight for name, value in zip(FIGURES, batch.tensors["figures"], strict=True)}
        with torch.no_grad():
            is_clipped_bk = (loss_bk > -ratio_bk * gains_b1).float() * is_learnt_bk
            further["clipped"] = float(is_clipped_bk.sum()) / num_learnt * batch.weight
        if "reference" in batch.tensors:
            distance_bk = likelihood_bk - batch.tensors["reference"]
            loss_bk = loss_bk + self._beta * 0.5 * distance_bk.square()
            with torch.no_grad():
                estimate_bk = (-distance_bk).exp() - 1 + distance_bk
                further["kl"] = float((estimate_bk * is_learnt_bk).sum()) / num_learnt * batch.weight
        return (loss_bk * weights_bk).sum(), further


def learnt_columns(batch: Batch) -> torch.Tensor:
    """The columns in which some row learns; the first one where none does, since a loss of 0 has a gradient too."""
    found = (batch.tensors["weights"] != 0).any(dim=0).nonzero().flatten()
    return found if found.numel() else torch.zeros(1, dtype=torch.int64)


def log_likelihoods(model: Any, batch: Batch, columns_k: torch.Tensor, temperature: float) -> torch.Tensor:
    """The log-likelihood of every target at a temperature, bk f32."""
    logits_bkv = model(
        input_ids=batch.tensors["inputs"],
        attention_mask=batch.tensors["mask"],
        position_ids=batch.tensors["positions"],
        use_cache=False,
        logits_to_keep=columns_k,
    ).logits
    if logits_bkv.shape[1] != columns_k.numel():
        # An architecture that knows nothing of the wish.
        logits_bkv = logits_bkv[:, columns_k]
    targets_bk = batch.tensors["targets"][:, columns_k]
    scores_bkv = (logits_bkv.float() / temperature).log_softmax(dim=-1)
    found: torch.Tensor = scores_bkv.gather(-1, targets_bk[..., None])[..., 0]
    return found


def with_likelihoods(batch: Batch, name: str, model: Any, temperature: float) -> Batch:
    """The batch with what `model` now thinks of its targets under `name`, bk."""
    with torch.no_grad():
        found = log_likelihoods(model, batch, learnt_columns(batch), temperature)
    return replace(batch, tensors={**batch.tensors, name: found})
