"""Open encoders from Hugging Face folders: weights from safetensors alone, pooling as sentence-transformers writes it down.

Nothing of a folder is run: the class is chosen by `model_type`, the tokenizer is read from tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from modelworks.contract.errors import InvalidData, UnsupportedArchitecture

#: Encoders whose every token sees the whole text, by `model_type`.
ENCODERS = frozenset({"bert", "camembert", "distilbert", "electra", "ernie", "modernbert", "mpnet", "roberta", "xlm-roberta"})
#: Positions of these begin after the padding id.
_SHIFTED = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta"})
#: Larger chunks are computed hardly faster, token by token.
_ENOUGH_TOKENS = 1024
#: Weights that an encoder works without.
_UNNEEDED = ("pooler.", "position_ids")

# Progress bars of loading and saving belong on a terminal, not in the log of a replica or run.
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What a folder says of how its encoder is to be used."""

    folder: Path
    config: Mapping[str, Any]
    #: "mean" or "cls".
    pooling: str = "mean"
    normalise: bool = True
    #: Longest text in tokens, special ones included.
    max_length: int = 512
    #: Tokens for which there are positions.
    positions: int = 512
    #: Texts that are written before queries and documents.
    prompts: Mapping[str, str] = field(default_factory=dict)
    #: Lengths that vectors were trained for, the whole one last.
    dimensions: tuple[int, ...] = ()

    @property
    def is_ranking(self) -> bool:
        """Whether it scores pairs."""
        return any(str(each).endswith("ForSequenceClassification") for each in self.config.get("architectures") or ())


def read_card(folder: Path) -> EncoderCard:
    """Read config.json and, where they are there, sentence-transformers' files.

    Raises:
        InvalidData: config.json or tokenizer.json is missing, or a file is no JSON.
        UnsupportedArchitecture: no encoder of the known kinds, another pooling, or a module beside pooling and normalising.
    """
    config = _json(folder, "config.json", required=True)
    if not (folder / "tokenizer.json").is_file():
        raise InvalidData(
            f"The model {folder.name!r} has no tokenizer.json.",
            hint="Save its tokenizer with transformers' save_pretrained, which writes that file.",
        )
    model_type = config.get("model_type")
    if model_type not in ENCODERS:
        raise UnsupportedArchitecture(
            f"{folder.name!r} is of the type {model_type!r}, which is no encoder that is known here.",
            hint=f"Known are: {', '.join(sorted(ENCODERS))}.",
        )
    positions = int(config.get("max_position_embeddings", 512))
    if model_type in _SHIFTED:
        positions -= int(config.get("pad_token_id", 1)) + 1
    sentence = _json(folder, "sentence_bert_config.json")
    longest = sentence.get("max_seq_length") or _json(folder, "tokenizer_config.json").get("model_max_length") or positions
    modules = _modules(folder)
    pooling = _pooling(folder, modules)
    known = config.get("matryoshka_dimensions") or ()
    return EncoderCard(
        folder=folder,
        config=config,
        pooling=pooling,
        # Without a list of modules there is nobody who said otherwise; cosines are what vectors are compared by.
        normalise=not modules or any("Normalize" in kind for kind, _ in modules),
        max_length=int(min(longest, positions)),
        positions=positions,
        prompts={str(name): str(text) for name, text in (_settings(folder).get("prompts") or {}).items() if text},
        dimensions=tuple(sorted({*map(int, known), int(config.get("hidden_size") or config.get("dim") or 0)})),
    )


def _settings(folder: Path) -> dict[str, Any]:
    return _json(folder, "config_sentence_transformers.json")


def _modules(folder: Path) -> list[tuple[str, str]]:
    file = folder / "modules.json"
    if not file.is_file():
        return []
    listed = _parsed(file)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise InvalidData(f"modules.json of {folder.name!r} is no list of modules.")
    found = [(str(each.get("type", "")).rsplit(".", 1)[-1], str(each.get("path") or "")) for each in listed]
    for kind, _ in found:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UnsupportedArchitecture(
                f"{folder.name!r} has a module {kind!r}; a transformer, pooling and normalising are known here.",
                hint="Use a checkpoint without it.",
            )
    return found


def _pooling(folder: Path, modules: Sequence[tuple[str, str]]) -> str:
    path = next((path for kind, path in modules if kind == "Pooling"), "1_Pooling")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InvalidData(f"modules.json of {folder.name!r} names a place outside of it: {path!r}.")
    said = _json(folder, f"{path}/config.json")
    chosen = said.get("pooling_mode")
    if chosen is None:
        flags = [
            name.removeprefix("pooling_mode_") for name, value in said.items() if name.startswith("pooling_mode_") and value
        ]
        chosen = "+".join(flags) or "mean"
    chosen = {"mean_tokens": "mean", "cls_token": "cls"}.get(str(chosen), str(chosen))
    if chosen not in ("mean", "cls"):
        raise UnsupportedArchitecture(
            f"{folder.name!r} pools by {chosen!r}; mean and cls are known here.", hint="Use another checkpoint."
        )
    return chosen


def _json(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    file = folder / name
    if not file.is_file():
        if required:
            raise InvalidData(f"The model {folder.name!r} has no {name}.", hint="Give a checkpoint in Hugging Face's layout.")
        return {}
    found = _parsed(file)
    if not isinstance(found, dict):
        raise InvalidData(f"{name} of {folder.name!r} is no JSON object.")
    return found


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{file.name} of {file.parent.name!r} is not JSON: {error}.") from None


def load_encoder(card: EncoderCard) -> Any:
    """The encoder in f32, without a head.

    Raises:
        InvalidData: weights are missing, damaged, or only there as pickles.
    """
    return _loaded(card, AutoModel, {})


def load_ranker(card: EncoderCard, *, new_head: bool = False) -> Any:
    """The encoder with a head that gives one score (or two classes) per pair, in f32.

    Args:
        new_head: make a head of one score where there is none, by torch's generator.

    Raises:
        InvalidData: as `load_encoder`. UnsupportedArchitecture: the head has more than two classes.
    """
    ranker = _loaded(card, AutoModelForSequenceClassification, {"num_labels": 1} if new_head else {}, new_head=new_head)
    if int(ranker.config.num_labels) > 2:
        raise UnsupportedArchitecture(
            f"{card.folder.name!r} tells {ranker.config.num_labels} classes apart; a reranker gives one score or two classes."
        )
    return ranker


def _loaded(card: EncoderCard, kind: Any, changed: dict[str, Any], *, new_head: bool = False) -> Any:
    if not list(card.folder.glob("*.safetensors")):
        raise InvalidData(
            f"The model {card.folder.name!r} has no weights in safetensors.",
            hint="Pickled weights are never opened: convert them.",
        )
    before = transformers_logging.get_verbosity()
    # Its report of missing weights is read below.
    transformers_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(card.folder, local_files_only=True, trust_remote_code=False, **changed)
        model, info = kind.from_pretrained(
            card.folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the libraries raise whatever their parsers meet
        raise InvalidData(f"The weights of {card.folder.name!r} cannot be read: {error}") from error
    finally:
        transformers_logging.set_verbosity(before)
    missing = [name for name in info["missing_keys"] if not any(part in name for part in _UNNEEDED)]
    if new_head:
        missing = [name for name in missing if name.startswith(str(model.base_model_prefix) + ".")]
    if missing:
        raise InvalidData(f"The weights of {card.folder.name!r} lack {', '.join(sorted(missing)[:3])} ({len(missing)} in all).")
    model.eval()
    return model


class TextEncoder(nn.Module):  # type: ignore[misc]
    """From token ids to one vector per text, not normalised.

    Shapes: `input_ids` and `attention_mask` [n, t] of int64, the result [n, d] of float32.
    """

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mean of the tokens' vectors, or that of the first token."""
        hidden_ntd = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return hidden_ntd[:, 0]
        mask_nt1 = attention_mask.unsqueeze(-1).to(hidden_ntd.dtype)
        return (hidden_ntd * mask_nt1).sum(1) / mask_nt1.sum(1)


class PairScorer(nn.Module):  # type: ignore[misc]
    """From the token ids of query and document to one logit per pair.

    Shapes: `input_ids`, `attention_mask` and, where the encoder tells segments apart, `token_type_ids` [n, t] of int64; the
    result [n, 1] of float32. Of two classes it is the difference of the logits, whose sigmoid is the second one's probability.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The head's logits."""
        further = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits_nc: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **further).logits
        return logits_nc if logits_nc.shape[1] == 1 else logits_nc[:, 1:] - logits_nc[:, :1]


def normalised(vectors_nd: torch.Tensor) -> torch.Tensor:
    """Vectors of length one; a vector of zeros stays one."""
    return functional.normalize(vectors_nd, dim=-1)


@dataclass(frozen=True, slots=True)
class Row:
    """The token ids of one text or pair, and the segment of each where the encoder tells segments apart."""

    ids: list[int]
    segments: list[int] | None = None


class RowMaker:
    """Token ids with the special tokens around them that the checkpoint's tokenizer puts there.

    The names of special tokens are ordinary characters in texts: who can send a text cannot end it early.

    Raises:
        InvalidData: tokenizer.json cannot be read.
    """

    def __init__(self, folder: Path, *, with_segments: bool = False) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain exceptions
            raise InvalidData(f"tokenizer.json of {folder.name!r} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = self._tokenizer.get_vocab_size()
        one, two = self._tokenizer.encode("a"), self._tokenizer.encode("a", "a")
        self._tokenizer.encode_special_tokens = True
        self._one = _special_runs(one)
        self._two = _special_runs(two)
        if len(self._one) != 2 or len(self._two) != 3:
            raise InvalidData(f"The tokenizer of {folder.name!r} does not keep two texts apart.")
        self._with_segments = with_segments
        self._segments = [two.type_ids[0], two.type_ids[-1]]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts without special tokens."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    @property
    def num_special(self) -> int:
        """Special tokens around one text."""
        return sum(map(len, self._one))

    @property
    def num_pair_special(self) -> int:
        """Special tokens around and between two texts."""
        return sum(map(len, self._two))

    def single(self, ids: Sequence[int]) -> Row:
        """One text."""
        first, last = self._one
        return Row([*first, *ids, *last])

    def pair(self, query: Sequence[int], document: Sequence[int]) -> Row:
        """A query and a document."""
        first, middle, last = self._two
        found = [*first, *query, *middle, *document, *last]
        if not self._with_segments:
            return Row(found)
        start = len(found) - len(document) - len(last)
        return Row(found, [self._segments[0]] * start + [self._segments[1]] * (len(found) - start))


def _special_runs(encoding: Any) -> list[list[int]]:
    """The special ids before, between and after the texts of an encoding."""
    runs: list[list[int]] = [[]]
    inside = False
    for token, is_special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if is_special:
            if inside:
                runs.append([])
                inside = False
            runs[-1].append(token)
        else:
            inside = True
    if inside:
        runs.append([])
    return runs


def padded(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Rows as tensors [n, t], filled up with id 0, which the mask hides."""
    longest = max(len(row.ids) for row in rows)
    ids_nt = torch.zeros((len(rows), longest), dtype=torch.long)
    mask_nt = torch.zeros_like(ids_nt)
    segments_nt = torch.zeros_like(ids_nt)
    for place, row in enumerate(rows):
        length = len(row.ids)
        ids_nt[place, :length] = torch.tensor(row.ids)
        mask_nt[place, :length] = 1
        if row.segments is not None:
            segments_nt[place, :length] = torch.tensor(row.segments)
    found = {"input_ids": ids_nt, "attention_mask": mask_nt}
    return found | {"token_type_ids": segments_nt} if rows[0].segments is not None else found


def chunks(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Indices of rows of like length, so many together that they take at most `most_tokens` with their padding.

    A chunk that is large enough to be computed well ends where rows begin that would be filled up by a third.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        if found:
            # The first of a chunk is its longest.
            longest, size = lengths[found[-1][0]], len(found[-1])
            wasteful = size * longest >= _ENOUGH_TOKENS and lengths[index] * 4 < longest * 3
            if (size + 1) * longest <= most_tokens and not wasteful:
                found[-1].append(index)
                continue
        found.append([index])
    return found


def uses_segments(card: EncoderCard) -> bool:
    """Whether its encoder was trained with a mark of which text a token is of."""
    return int(card.config.get("type_vocab_size") or 0) > 1
