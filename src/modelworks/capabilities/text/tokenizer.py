"""Train and load tokenizers: byte-level BPE, so that any text is representable, with a chat template that travels along.

Method: byte-pair encoding over UTF-8 bytes (Sennrich et al. 2016; Radford et al. 2019), digits one by one so that numbers
have one spelling, and ChatML turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from modelworks.contract.errors import InvalidData

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

#: Words with the space before them, numbers digit by digit, runs of CJK, runs of punctuation, line ends, other space.
_PIECES = (
    r"'(?:s|t|re|ve|m|ll|d)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: With a place for tools, calls of them and what they answered, written as Qwen3 and Hermes write them, but shorter.
TOOL_TEMPLATE = (
    "{%- set said = messages[0]['content'] if messages[0]['role'] in ['system', 'developer'] else default_system_prompt -%}"
    "{%- if said or tools -%}"
    "{{- '<|im_start|>system\\n' + (said or '') -}}"
    "{%- if tools -%}"
    "{{- ('\\n\\n' if said else '') + 'Tools, called as <tool_call>{\"name\", \"arguments\"}</tool_call>:' -}}"
    "{%- for tool in tools -%}{{- '\\n' + ((tool['function'] if 'function' in tool else tool) | tojson) -}}{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'tool' -%}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + (message['content'] or '') + '\\n</tool_response><|im_end|>\\n' -}}"
    "{%- elif not (loop.first and message['role'] in ['system', 'developer']) -%}"
    "{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}"
    "{{- '<|im_start|>' + role + '\\n' + (message['content'] or '') -}}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set function = call['function'] if 'function' in call else call -%}"
    "{{- ('\\n' if message['content'] or not loop.first else '') + '<tool_call>\\n{\"name\": ' + (function['name'] | tojson) "
    "+ ', \"arguments\": ' + (function['arguments'] if function['arguments'] is string else (function['arguments'] | tojson)) "
    "+ '}\\n</tool_call>' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] not in ['system', 'developer'] and default_system_prompt -%}"
    "{{- '<|im_start|>system\\n' + default_system_prompt + '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}"
    "{{- '<|im_start|>' + role + '\\n' + (message['content'] or '') + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def chat_template(system_prompt: str, *, tools: bool = False) -> str:
    """The template with `system_prompt` as the system message of chats that bring none; with a place for tools if wanted."""
    quoted = system_prompt.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{%- set default_system_prompt = '" + quoted + "' -%}" + (TOOL_TEMPLATE if tools else CHAT_TEMPLATE)


def template_digest(tokenizer: Any) -> str | None:
    """SHA-256 of the chat template as `sha256:…`, or None where the tokenizer has none."""
    template = tokenizer.chat_template
    return None if template is None else "sha256:" + hashlib.sha256(str(template).encode()).hexdigest()


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    system_prompt: str,
    context_length: int,
    *,
    more_tokens: Sequence[str] = (),
    tools: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; text without enough repetition gives fewer tokens than `vocab_size`.

    Args:
        texts: documents; streamed, not kept.
        vocab_size: tokens in all: 3 special ones, 256 bytes, and merges.
        system_prompt: written into the chat template.
        context_length: recorded as the longest input of the model.
        more_tokens: special tokens beside the three.
        tools: give the chat template a place for tools.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *more_tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template(system_prompt, tools=tools),
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, from `tokenizer.json` alone: no code of the folder runs.

    Raises:
        InvalidData: `tokenizer.json` is missing or cannot be read.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InvalidData(
            f"The model {folder.name!r} has no tokenizer.json.",
            hint="Save its tokenizer with transformers' save_pretrained, which writes that file.",
        )
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises whatever its parser meets
        raise InvalidData(f"tokenizer.json of model {folder.name!r} cannot be read: {error}") from error
    # How it was loaded is no part of it, but would be saved with it.
    for argument in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(argument, None)
    return tokenizer


def encode_plain(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Iterator[list[int]]:
    """Token ids of texts in which the names of special tokens are ordinary characters.

    A document that mentions `<|im_end|>` must not end a turn.
    """
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
            yield encoding.ids
    finally:
        backend.encode_special_tokens = before
