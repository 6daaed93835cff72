"""From conversations to rows of token ids: exactly the ids that the engine would read and should write, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.contract.errors import InvalidData, ModelworksError
from modelworks.contract.generation import Message


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids, and for each how much is learnt from predicting it: 0 for all that the model does not write itself."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    #: File and line.
    source: str = field(default="", compare=False)

    @property
    def weight(self) -> float:
        """What the loss of this row is a sum over."""
        return sum(self.weights)


#: Records that are named in a message.
_MOST_PLACES = 8


def conversation_rows(
    prompt_format: PromptFormat,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    weights: Sequence[float],
    where: str,
) -> list[Row]:
    """The rows that teach the weighted answers of a conversation.

    Each answer follows the ids that serving would give the model for the messages before it, and ends with the id at which
    serving stops. Where those ids continue the row so far (most templates), answers share a row; where the template writes
    earlier turns anew (it drops their reasoning), the next answer begins its own.

    Args:
        weights: one per message.
        where: file and line, for errors.

    Raises:
        InvalidData: the template refuses the messages, or does not end the answer with one of the format's stop ids.
    """
    encoder = prompt_format.encoder
    stops = frozenset(prompt_format.stop_ids)
    rows: list[Row] = []
    ids: list[int] = []
    learnt: list[float] = []
    try:
        turns = [Message.model_validate(message) for message in messages]
        for place, (turn, weight) in enumerate(zip(turns, weights, strict=True)):
            if turn.role != "assistant" or weight <= 0:
                continue
            asked = encoder.render(turns[:place], tools)
            answered = encoder.render(turns[: place + 1], tools, answered=True)
            if not answered.text.startswith(asked.text):
                raise InvalidData("the chat template begins an answer in another way than it asks for one")
            answer = answered.ids(len(asked.text))
            end = next((at for at, token in enumerate(answer) if token in stops), None)
            if end is None:
                raise InvalidData("the chat template ends this answer with no id at which an engine stops")
            prompt = asked.ids()
            if ids and prompt[: len(ids)] != ids:
                rows.append(Row(tuple(ids), tuple(learnt), where))
                ids, learnt = [], []
            fresh = prompt[len(ids) :]
            ids += [*fresh, *answer[: end + 1]]
            learnt += [*[0.0] * len(fresh), *[float(weight)] * (end + 1)]
    except (ModelworksError, ValueError) as error:
        said = error.message if isinstance(error, ModelworksError) else str(error)
        raise InvalidData(
            f"{where}: {said.rstrip('.')}.", hint="Correct the sample, or use a base model with another template."
        ) from error
    if ids:
        rows.append(Row(tuple(ids), tuple(learnt), where))
    return rows


def places_of(rows: Iterable[Row]) -> str:
    """The files and lines of rows, the first few of them, each once."""
    found = list(dict.fromkeys(row.source for row in rows if row.source))
    more = f" and {len(found) - _MOST_PLACES} more" if len(found) > _MOST_PLACES else ""
    return "; ".join(found[:_MOST_PLACES]) + more


def within(rows: Iterator[tuple[str, Row]], max_length: int) -> tuple[list[Row], int]:
    """The rows of at most `max_length` tokens, and how many were longer.

    Raises:
        InvalidData: none is short enough.
    """
    kept: list[Row] = []
    longest, first_place, dropped = 0, "", 0
    for place, row in rows:
        if len(row.ids) <= max_length:
            kept.append(row)
            continue
        dropped += 1
        if len(row.ids) > longest:
            longest, first_place = len(row.ids), place
    if not kept:
        raise InvalidData(
            f"Every sample is longer than {max_length} tokens; the longest, {first_place}, has {longest}."
            if dropped
            else "The data set has no answer to learn from: every weight is 0.",
            hint="Raise max_length, use a base model with a longer context, or shorten the samples."
            if dropped
            else 'Give each sample a message of the role "assistant" whose weight is not 0.',
        )
    return kept, dropped


def pack(rows: Sequence[Row], length: int, order: Sequence[int]) -> list[list[int]]:
    """Put rows, by their index, into bins of at most `length` tokens: each into the first of the open bins with room for it.

    Bins come out in the order in which they were begun, so the same order of rows always gives the same bins.
    """
    bins: list[list[int]] = []
    open_bins: list[tuple[int, int]] = []  # (bin, room)
    for index in order:
        size = len(rows[index].ids)
        for place, (which, room) in enumerate(open_bins):
            if size <= room:
                bins[which].append(index)
                open_bins[place] = (which, room - size)
                break
        else:
            bins.append([index])
            open_bins.append((len(bins) - 1, length - size))
            # Looking at every bin begun so far would take quadratic time for a few more filled tokens.
            if len(open_bins) > _OPEN_BINS:
                open_bins.remove(min(open_bins, key=_ROOM))
    return bins


_OPEN_BINS = 64
_ROOM: Callable[[tuple[int, int]], int] = lambda entry: entry[1]  # noqa: E731
