"""Turn a request into token ids: by the model's own chat template and tokenizer, with every fault named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.fill_in_middle import GapMarks
from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import GenerationInput, Message

#: Stands for the n-th special token that a message's text mentions, while the template is rendered.
_MENTION = re.compile("\ue000(\\d+)\ue001")
#: In templates that refuse any other length of a call's id.
_ASKS_FOR_NINE = re.compile(r"\|\s*length\s*!=\s*9\b")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A template's text, in which special tokens that messages mention are marked, and the way from it to ids."""

    text: str
    mentioned: tuple[str, ...]
    encode: Callable[[str, Sequence[str]], list[int]]

    def ids(self, start: int = 0) -> list[int]:
        """Token ids of the text from that character on."""
        return self.encode(self.text[start:], self.mentioned)


class PromptEncoder:
    """Encodes requests for one model.

    Args:
        tokenizer: the model's.
        vocab_size: ids that the model has an embedding for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        special = sorted((token.content for token in tokenizer.added_tokens_decoder.values() if token.special), key=len)
        self._special = re.compile("|".join(re.escape(text) for text in reversed(special))) if special else None

    def encode(self, request: GenerationInput) -> list[int]:
        """The ids that the model continues.

        Special tokens written out in a chat's messages and tools are plain characters: neither can end a turn. In a text
        prompt they are what they say.

        Raises:
            InvalidRequest: the prompt is empty, an id is out of range, or the template refuses the messages.
            UnsupportedParameter: tools for a template that has no place for them, or a suffix for a model that has no tokens
                for it.
        """
        if request.messages is not None:
            ids = self._chat_ids(request)
        elif request.prompt is not None and request.suffix is not None:
            # What looks like a special token in source code is a text there.
            ids = self._plain.encode(request.prompt, add_special_tokens=False).ids
        elif request.prompt is not None:
            ids = [int(token) for token in self._tokenizer(request.prompt, verbose=False)["input_ids"]]
        else:
            ids = list(request.prompt_ids or ())
            wrong = next((token for token in ids if not 0 <= token < self._vocab_size), None)
            if wrong is not None:
                raise InvalidRequest(
                    f"The prompt has the token id {wrong}, but the model's ids go from 0 to {self._vocab_size - 1}.",
                    hint="Encode the prompt with this model's own tokenizer.",
                    param="prompt",
                )
        if request.suffix is not None:
            return self._gap_ids(ids, request.suffix)
        if not ids or (request.prompt is not None and not request.prompt):
            raise InvalidRequest("The prompt is empty.", hint="Give at least one character.", param="prompt")
        return ids

    @cached_property
    def gap_marks(self) -> GapMarks | None:
        """How the model is asked to fill a gap; None where it has no tokens for it."""
        return GapMarks.of(self._tokenizer.get_vocab())

    def _gap_ids(self, before: Sequence[int], suffix: str) -> list[int]:
        marks = self.gap_marks
        if marks is None:
            raise UnsupportedParameter(
                "This model cannot fill in the middle: it has no tokens for that.",
                hint="Leave suffix out, or deploy a model for code that was trained to fill gaps.",
                param="suffix",
            )
        beginning = [int(token) for token in self._tokenizer("", verbose=False)["input_ids"][:1]]
        start = beginning if beginning == [self._tokenizer.bos_token_id] else []
        return start + marks.around(before, self._plain.encode(suffix, add_special_tokens=False).ids)

    @cached_property
    def _plain(self) -> Tokenizer:
        """A second tokenizer to which special tokens are text: the first one's switch would change other requests too."""
        plain = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        plain.encode_special_tokens = True
        return plain

    def _chat_ids(self, request: GenerationInput) -> list[int]:
        return self.render(request.messages or [], request.tools, **request.template_args).ids()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        answered: bool = False,
        **template_args: Any,
    ) -> Rendered:
        """What the chat template makes of messages: the text that an answer follows, or (`answered`) that ends with one.

        Raises:
            InvalidRequest: there are no messages, or no template, or it refuses the messages.
            UnsupportedParameter: tools for a template that has no place for them.
        """
        if not messages:
            raise InvalidRequest("The chat has no messages.", hint="Give at least one message.", param="messages")
        template = self._tokenizer.chat_template
        if template is None:
            raise InvalidRequest(
                "This model has no chat template: it completes text and was not made for chats.",
                hint='Use /v1/completions (or `modelworks run text-generation MODEL -i \'{"prompt": "…"}\'`), '
                "or deploy a model that was trained with a template.",
                param="messages",
            )
        if tools and "tools" not in str(template):
            raise UnsupportedParameter(
                "This model's chat template has no place for tools.",
                hint="Leave tools out, or deploy a model that was trained with them.",
                param="tools",
            )
        mentioned: list[str] = []
        try:
            turns = [self._hide_special(_turn(message, str(template)), mentioned) for message in messages]
            text = self._tokenizer.apply_chat_template(
                turns,
                tools=self._hide_special(tools, mentioned) or None,
                tokenize=False,
                add_generation_prompt=not answered,
                **template_args,
            )
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"The chat template refuses these messages: {error}.", param="messages") from error
        return Rendered(str(text), tuple(mentioned), self._ids)

    def _ids(self, text: str, mentioned: Sequence[str]) -> list[int]:
        ids: list[int] = []
        # Every second piece is the number of a mention.
        for place, piece in enumerate(_MENTION.split(text) if mentioned else [text]):
            if place % 2:
                # A number beyond them was in the message itself, and stays what it was.
                known = int(piece) < len(mentioned)
                shown = mentioned[int(piece)] if known else f"\ue000{piece}\ue001"
                ids += self._plain.encode(shown, add_special_tokens=False).ids
            elif piece:
                ids += [int(token) for token in self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]]
        return ids

    def _hide_special(self, said: Any, mentioned: list[str]) -> Any:
        """A turn, or a part of one, with a mark in place of each special token that its texts mention."""
        if self._special is None:
            return said
        if isinstance(said, dict):
            return {name: self._hide_special(value, mentioned) for name, value in said.items()}
        if isinstance(said, list):
            return [self._hide_special(each, mentioned) for each in said]
        if not isinstance(said, str):
            return said

        def hide(match: re.Match[str]) -> str:
            mentioned.append(match[0])
            return f"\ue000{len(mentioned) - 1}\ue001"

        return self._special.sub(hide, said)


def _turn(message: Message, template: str) -> dict[str, Any]:
    """A message as templates expect it.

    `developer` is what templates older than the role call `system`. Arguments of tool calls, JSON in a string on the wire, are
    objects to templates: many write them as JSON themselves, and would put a string's quotes around it.
    """
    turn = message.model_dump(exclude_none=True)
    turn.setdefault("content", "")
    if turn["role"] == "developer" and "developer" not in template:
        turn["role"] = "system"
    if "tool_calls" in turn:
        turn["tool_calls"] = [_call(call) for call in turn["tool_calls"]]
    if _ASKS_FOR_NINE.search(template):
        for named, key in [*((call, "id") for call in turn.get("tool_calls", ())), (turn, "tool_call_id")]:
            if isinstance(named.get(key), str):
                named[key] = _nine(named[key])
    return turn


def _nine(call_id: str) -> str:
    """An id as Mistral's templates insist on it: nine letters and digits, the same for the call and for its result."""
    return call_id if re.fullmatch("[A-Za-z0-9]{9}", call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    # A number or a word in quotes is no object, and stays as the model wrote it.
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
