"""Template, tokenizer and the ids that end an answer as one object with one digest: what was trained is what is served."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from modelworks.capabilities.text.prompt import PromptEncoder
from modelworks.capabilities.text.schemas import PROMPT_FORMAT
from modelworks.capabilities.text.tokenizer import load_tokenizer, template_digest
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidData, InvalidRequest
from modelworks.contract.generation import Message

#: Lies in a trained model's folder and beside its adapter, and says what they were trained with.
RECORD = f"{PROMPT_FORMAT}.json"
#: What of a folder is the format; copied as it is, since a library that writes it anew may write it differently.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
_PARTS = {
    "template": "the chat template",
    "tokenizer": "the tokenizer (tokenizer.json)",
    "stop_ids": "the ids that end an answer (eos_token_id)",
}


@dataclass(frozen=True)
class PromptFormat:
    """How one model is spoken to. Training, evaluation and every engine go through it."""

    tokenizer: PreTrainedTokenizerFast = field(repr=False)
    #: SHA-256 of the chat template, None where there is none.
    template: str | None
    #: SHA-256 of what `tokenizer.json` says, whatever its spacing.
    tokenizer_digest: str
    #: Every id that ends an answer, rising.
    stop_ids: tuple[int, ...]
    vocab_size: int

    @classmethod
    def of(cls, folder: Path) -> PromptFormat:
        """The format of a Hugging Face folder.

        Raises:
            InvalidData: a file of it is missing or damaged.
        """
        tokenizer = load_tokenizer(folder)
        config = _object(folder / "config.json")
        nested = config.get("text_config")
        size = (nested if isinstance(nested, dict) else config).get("vocab_size")
        return cls(
            tokenizer=tokenizer,
            template=template_digest(tokenizer),
            tokenizer_digest=_sha256(_object(folder / "tokenizer.json")),
            stop_ids=_stop_ids(_object(folder / "generation_config.json"), config, tokenizer),
            vocab_size=size if isinstance(size, int) else len(tokenizer),
        )

    @property
    def parts(self) -> dict[str, Any]:
        """The three parts by name, as JSON."""
        return {"template": self.template, "tokenizer": self.tokenizer_digest, "stop_ids": list(self.stop_ids)}

    @property
    def digest(self) -> str:
        """`sha256:…` over all parts."""
        return _sha256(self.parts)

    def record(self) -> dict[str, Any]:
        """What is kept with a model: the digest and its parts."""
        return {"digest": self.digest, **self.parts}

    @cached_property
    def encoder(self) -> PromptEncoder:
        """From messages to token ids."""
        return PromptEncoder(self.tokenizer, self.vocab_size)

    def for_training(self) -> PromptFormat:
        """The format that answers are trained with: the token by which the template ends a turn becomes one of the stop ids.

        Raises:
            InvalidRequest: there is no template, or it ends an answer with no special token, so that nothing would tell the
                trained model's engine where to stop.
        """
        question, answer = Message(role="user", content="question"), Message(role="assistant", content="answer")
        text = self.encoder.render([question, answer], answered=True).text
        _, found, rest = text.rpartition("answer")
        after = [int(token) for token in self.tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"]]
        special = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        end = next((token for token in after if token in special or token in self.stop_ids), None)
        if not found or end is None:
            raise InvalidRequest(
                "The base model's chat template ends an answer with no special token, so a trained answer would have no end.",
                hint="Use a base model whose template writes its end-of-turn or end-of-text token after each answer.",
                code="template_without_end",
            )
        return replace(self, stop_ids=tuple(sorted({*self.stop_ids, end})))

    def write(self, source: Path, target: Path) -> None:
        """Copy the format's files from the folder `source`, its stop ids and the record to `target`.

        Raises:
            IntegrityFailed: what was written reads back as another format.
        """
        for name in _FILES:
            (target / name).unlink(missing_ok=True)
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        generation = {**_object(target / "generation_config.json"), "eos_token_id": list(self.stop_ids)}
        (target / "generation_config.json").write_text(json.dumps(generation, indent=2, sort_keys=True) + "\n", "utf-8")
        self.write_record(target)
        verify(target, PromptFormat.of(target), {})

    def write_record(self, folder: Path) -> None:
        """Write the record alone."""
        (folder / RECORD).write_text(json.dumps(self.record(), indent=2, sort_keys=True) + "\n", "utf-8")


def served_format(model: LocalModel) -> PromptFormat:
    """The format of a model that is about to be served or measured, if it is the one that the model was trained with.

    A model that carries no record (one from elsewhere) has nothing to differ from.

    Raises:
        IntegrityFailed: it is another one; the message names the parts that differ.
        InvalidData: a file is missing or damaged.
    """
    found = PromptFormat.of(model.path)
    verify(model.path, found, model.metadata, ref=model.ref)
    return found


def verify(folder: Path, found: PromptFormat, metadata: Mapping[str, Any], ref: str | None = None) -> None:
    """Compare a format with the records in a model's metadata and in its folder.

    Raises:
        IntegrityFailed: one of them says something else.
    """
    recorded = metadata.get(PROMPT_FORMAT)
    _compare(found, recorded if isinstance(recorded, dict) else {}, "its version", ref or folder.name)
    _compare(found, _object(folder / RECORD), RECORD, ref or folder.name)


def _compare(found: PromptFormat, recorded: Mapping[str, Any], where: str, name: str) -> None:
    have = found.parts
    differences = [
        f"{words} was {_short(recorded[part])} and is {_short(have[part])}"
        for part, words in _PARTS.items()
        if part in recorded and recorded[part] != have[part]
    ]
    if differences:
        raise IntegrityFailed(
            f"The model {name!r} would not be served as it was trained: {'; '.join(differences)} (recorded in {where}).",
            hint="Restore the files it was trained with, or train again with the changed ones.",
            code="prompt_format_changed",
        )


def _short(value: Any) -> str:
    return value[:19] + "…" if isinstance(value, str) and len(value) > 20 else json.dumps(value)


def _stop_ids(generation: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """The generation settings' end ids if they name any, else the configuration's, and the tokenizer's own."""
    named = generation.get("eos_token_id", config.get("eos_token_id"))
    listed: Iterable[Any] = named if isinstance(named, list) else [named]
    ids = {int(token) for token in listed if token is not None}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    return tuple(sorted(ids))


def _object(file: Path) -> dict[str, Any]:
    """A file's JSON object; nothing where there is no file."""
    if not file.is_file():
        return {}
    try:
        loaded = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InvalidData(f"{file.name} of model {file.parent.name!r} cannot be read: {error}.") from None
    return loaded if isinstance(loaded, dict) else {}


def _sha256(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
