"""Answers drawn from a model that is being trained: many at a time, with one computation of each prompt.

Shape suffixes: n rows, t positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class Answer:
    """What was drawn: ids with the one that ended it; `is_cut`: the length's limit ended it instead."""

    ids: tuple[int, ...]
    is_cut: bool


def draw_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    each: int,
    max_tokens: int,
    stop_ids: Collection[int],
    temperature: float,
    generator: torch.Generator,
) -> tuple[list[Answer], float]:
    """Draw `each` answers to every prompt from the model's own distribution at a temperature; nothing is cut from its tail.

    The same generator, weights and prompts give the same answers. Prompts are padded on the left and computed once each.

    Args:
        model: in the mode for evaluation.
        max_tokens: the longest answer, its end included.
        stop_ids: each ends an answer.

    Returns:
        The answers, those to one prompt side by side; and the mean entropy of the draws in nats.
    """
    longest = max(len(ids) for ids in prompts)
    inputs_nt = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in prompts])
    mask_nt = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64)
    num_rows = len(prompts) * each
    written: list[list[int]] = [[] for _ in range(num_rows)]
    is_cut = [True] * num_rows
    entropy, num_draws = 0.0, 0
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        positions_nt = (mask_nt.cumsum(dim=1) - 1).clamp(min=0)
        logits_nv = _read(model, cache, inputs_nt, mask_nt, positions_nt).repeat_interleave(each, dim=0)
        cache.batch_repeat_interleave(each)
        mask_nt = mask_nt.repeat_interleave(each, dim=0)
        next_n = mask_nt.sum(dim=1)
        alive = list(range(num_rows))
        for number in range(max_tokens):
            scores_nv = torch.log_softmax(logits_nv.float() / temperature, dim=-1)
            chances_nv = scores_nv.exp()
            drawn_n = torch.multinomial(chances_nv, 1, generator=generator)[:, 0]
            # A chance of 0 adds nothing, where 0 times minus infinity would be no number.
            entropy -= float((chances_nv * scores_nv.clamp(min=-1e4)).sum())
            num_draws += len(alive)
            is_over_n = torch.isin(drawn_n, stops)
            for row, token, is_over in zip(alive, drawn_n.tolist(), is_over_n.tolist(), strict=True):
                written[row].append(token)
                if is_over:
                    is_cut[row] = False
            kept = (~is_over_n).nonzero()[:, 0]
            if not len(kept) or number == max_tokens - 1:
                break
            if len(kept) < len(alive):
                alive = [alive[index] for index in kept.tolist()]
                cache.batch_select_indices(kept)
                drawn_n, mask_nt, next_n = drawn_n[kept], mask_nt[kept], next_n[kept]
            mask_nt = torch.cat([mask_nt, torch.ones((len(alive), 1), dtype=mask_nt.dtype)], dim=1)
            logits_nv = _read(model, cache, drawn_n[:, None], mask_nt, next_n[:, None])
            next_n = next_n + 1
    answers = [Answer(tuple(ids), cut) for ids, cut in zip(written, is_cut, strict=True)]
    return answers, entropy / max(1, num_draws)


def _read(
    model: Any, cache: DynamicCache, inputs_nt: torch.Tensor, mask_nt: torch.Tensor, positions_nt: torch.Tensor
) -> torch.Tensor:
    """Logits nv after the last position."""
    output = model(
        input_ids=inputs_nt,
        attention_mask=mask_nt,
        position_ids=positions_nt,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits
