"""Turn a request into token ids: by the model's own chat template and tokenizer, with every fault named."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import GenerationInput, Message


def prompt_ids(tokenizer: PreTrainedTokenizerFast, vocab_size: int, request: GenerationInput) -> list[int]:
    """The ids a model continues.

    Args:
        tokenizer: the model's.
        vocab_size: ids that the model has an embedding for.
        request: a chat, a text or ids.

    Raises:
        InvalidRequest: the prompt is empty, an id is out of range, or the template refuses the messages.
        UnsupportedParameter: tools for a template that has no place for them.
    """
    if request.messages is not None:
        ids = _chat_ids(tokenizer, request)
    elif request.prompt is not None:
        ids = [int(token) for token in tokenizer(request.prompt, verbose=False)["input_ids"]]
    else:
        ids = list(request.prompt_ids or ())
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"The prompt has the token id {wrong}, but the model's ids go from 0 to {vocab_size - 1}.",
                hint="Encode the prompt with this model's own tokenizer.",
                param="prompt",
            )
    if not ids or (request.prompt is not None and not request.prompt):
        raise InvalidRequest("The prompt is empty.", hint="Give at least one character.", param="prompt")
    return ids


def _chat_ids(tokenizer: PreTrainedTokenizerFast, request: GenerationInput) -> list[int]:
    messages = request.messages or []
    if not messages:
        raise InvalidRequest("The chat has no messages.", hint="Give at least one message.", param="messages")
    template = tokenizer.chat_template
    if template is None:
        raise InvalidRequest(
            "This model has no chat template: it completes text and was not made for chats.",
            hint="Use /v1/completions, or deploy a model that was trained with a template.",
            param="messages",
        )
    if request.tools and "tools" not in str(template):
        raise UnsupportedParameter(
            "This model's chat template has no place for tools.",
            hint="Leave tools out, or deploy a model that was trained with them.",
            param="tools",
        )
    try:
        text = tokenizer.apply_chat_template(
            [_turn(message, str(template)) for message in messages],
            tools=request.tools,
            tokenize=False,
            add_generation_prompt=True,
            **request.template_args,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"The chat template refuses these messages: {error}.", param="messages") from error
    return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def _turn(message: Message, template: str) -> dict[str, Any]:
    """A message as templates expect it; `developer` is what templates older than the role call `system`."""
    turn = message.model_dump(exclude_none=True)
    turn.setdefault("content", "")
    if turn["role"] == "developer" and "developer" not in template:
        turn["role"] = "system"
    return turn
