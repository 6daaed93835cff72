"""From OpenAI's sampling parameters to `GenerationInput`'s, and the parameters that no engine here can honour."""

from __future__ import annotations

from typing import Any

from modelworks.contract.errors import UnsupportedParameter
from modelworks.kernel.gateway.schemas import ChatRequest, CompletionRequest

#: Fields that ask for a different answer than the one we would give; anything else that is unknown is ignored.
_REFUSED = (
    "audio",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "moderation",
    "structured_outputs",
    "web_search_options",
)


def sampling(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """The shared part of a `GenerationInput`, without what was left to the model's defaults."""
    found: dict[str, Any] = {}
    for name in ("temperature", "top_p", "seed", "n", "presence_penalty", "frequency_penalty", "repetition_penalty"):
        value = getattr(request, name)
        if value is not None:
            found[name] = value
    if request.top_k is not None and request.top_k > 0:
        found["top_k"] = request.top_k
    if request.stop is not None:
        stops = [request.stop] if isinstance(request.stop, str) else request.stop
        found["stop"] = [text for text in stops if text]
    if request.logit_bias:
        found["logit_bias"] = {int(token): bias for token, bias in request.logit_bias.items()}
    return found


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raise UnsupportedParameter for a field that changes what the answer means and cannot be honoured."""
    for name in _REFUSED:
        if body.get(name):
            raise unsupported(name, "Leave it out.")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and any(item != "text" for item in modalities):
        raise unsupported("modalities", "This model answers with text only.")


def unsupported(param: str, hint: str) -> UnsupportedParameter:
    """The refusal of one field."""
    return UnsupportedParameter(f"The parameter {param!r} is not supported by this model.", hint=hint, param=param)
