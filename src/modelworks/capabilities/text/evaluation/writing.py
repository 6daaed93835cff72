"""What a model writes itself while it is measured: greedily, or drawn by chance from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.capabilities.text.engines.base import Decoding
from modelworks.capabilities.text.engines.sampling import Sampler
from modelworks.capabilities.text.engines.transformers_model import TransformersDecoder
from modelworks.capabilities.text.prompt_format import PromptFormat

#: A text is looked through for stop strings this often, in tokens: decoding it anew for each token takes quadratic time.
_LOOK_EVERY = 8


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes answers by the probabilities that serving would use."""

    model: Any
    prompt_format: PromptFormat
    context_length: int
    max_tokens: int

    def answer(self, prompt_ids: Sequence[int], *, stops: Sequence[str] = (), temperature: float = 0.0, seed: int = 0) -> str:
        """The model's answer, up to the first of `stops`; empty where the prompt fills the context.

        Args:
            temperature: 0 takes the likeliest token at each place; above it, one is drawn among those that make 95 %.
        """
        room = min(self.max_tokens, self.context_length - len(prompt_ids))
        if room < 1:
            return ""
        stop_ids = frozenset(self.prompt_format.stop_ids)
        decoding = Decoding(max_tokens=room, temperature=temperature, top_p=0.95, seed=seed, stop_ids=stop_ids)
        sampler = Sampler(list(prompt_ids), decoding)
        decoder = TransformersDecoder(self.model)
        state, written = decoder.new_state(), list[int]()
        fresh, finished = list(prompt_ids), False
        while not finished:
            step = sampler.draw(decoder.read(state, fresh, len(prompt_ids) + len(written) - len(fresh)))
            if step.token_id is not None:
                written.append(step.token_id)
                fresh = [step.token_id]
            finished = step.finish is not None
            if stops and (finished or len(written) % _LOOK_EVERY == 0):
                text = self._text(written)
                places = [place for stop in stops if (place := text.find(stop)) >= 0]
                if places:
                    return text[: min(places)]
        return self._text(written)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.prompt_format.tokenizer.decode(list(ids), skip_special_tokens=True))
