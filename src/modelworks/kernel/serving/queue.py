"""Who is next when a deployment is full: fair between projects, within a project between its keys, people before batches.

Each project, and each key within it, has a counter of the tokens that it was served; whoever has the smallest is next, and who
comes back after a pause starts at the smallest of those who wait, so that nobody saves up turns. This is the virtual token
counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), on two levels: of two that always have
requests waiting, neither is served more than the other by more than its largest request and what is being answered.
Where the queue is full, a newcomer with little waiting takes the place of the newest request of whoever has most waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Turn:
    """What the queue knows of a request.

    Args:
        project_id: who shares first.
        caller: who shares within the project: the id of a key.
        cost: tokens that it takes for sure, those of its prompt.
        background: nobody sits and waits for it; it is served when no other request waits.
        beyond: part of a request that has been let in: it waits only while nothing answers, and never for a free place, since
            many such requests could otherwise wait for each other.
        used: tokens of its answer, known at its end.
    """

    project_id: str
    caller: str = ""
    cost: int = 1
    background: bool = False
    beyond: bool = False
    used: int = 0


class _Shares:
    """The counters of one level."""

    __slots__ = ("_level", "_spent")

    def __init__(self) -> None:
        self._spent: dict[str, int] = {}
        #: What the one that was served last had spent before.
        self._level = 0

    def join(self, name: str, waiting: Iterable[str]) -> None:
        """`name` begins to wait, beside those that wait already."""
        floor = min((self._spent[each] for each in waiting), default=self._level)
        self._spent[name] = max(self._spent.get(name, 0), floor)

    def order(self, names: Iterable[str]) -> list[str]:
        """Who is next; among equals whoever began to wait first."""
        return sorted(names, key=self._spent.__getitem__)

    def serve(self, name: str, cost: int) -> None:
        """`name` is next."""
        self._level = self._spent[name]
        self._spent[name] += cost

    def charge(self, name: str, cost: int) -> None:
        """More of what `name` was served is known now."""
        if name in self._spent:
            self._spent[name] += cost

    def forget(self, waiting: Iterable[str]) -> None:
        """Drop those who would start at the level of the others anyhow."""
        keep = set(waiting)
        self._spent = {name: spent for name, spent in self._spent.items() if name in keep or spent > self._level}


@dataclass(slots=True)
class _Project(Generic[T]):
    shares: _Shares = field(default_factory=_Shares)
    #: Per key its requests, in the order of their arrival.
    keys: dict[str, dict[T, Turn]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(requests) for requests in self.keys.values())


class _Rank(Generic[T]):
    """The requests of people, or those of the background."""

    #: So many projects without a waiting request are remembered before the list is cleared of those that need not be.
    _KEPT = 64

    def __init__(self) -> None:
        self._shares = _Shares()
        self._projects: dict[str, _Project[T]] = {}
        self._waiting: set[str] = set()
        self.num_waiting = 0

    def add(self, turn: Turn, item: T) -> None:
        project = self._projects.setdefault(turn.project_id, _Project())
        if turn.project_id not in self._waiting:
            self._shares.join(turn.project_id, self._waiting)
            self._waiting.add(turn.project_id)
        if turn.caller not in project.keys:
            project.shares.join(turn.caller, project.keys)
            project.keys[turn.caller] = {}
        project.keys[turn.caller][item] = turn
        self.num_waiting += 1

    def remove(self, turn: Turn, item: T) -> bool:
        project = self._projects.get(turn.project_id)
        requests = None if project is None else project.keys.get(turn.caller)
        if project is None or requests is None or requests.pop(item, None) is None:
            return False
        self.num_waiting -= 1
        if not requests:
            del project.keys[turn.caller]
            project.shares.forget(project.keys)
        if not project.keys:
            self._waiting.discard(turn.project_id)
            if len(self._projects) - len(self._waiting) > self._KEPT:
                self._shares.forget(self._waiting)
                self._projects = {each: self._projects[each] for each in self._waiting}
        return True

    def take(self, fits: Callable[[T], R | None]) -> tuple[T, R] | None:
        for project_id in self._shares.order([each for each in self._projects if each in self._waiting]):
            project = self._projects[project_id]
            for caller in project.shares.order(project.keys):
                for item, turn in project.keys[caller].items():
                    found = fits(item)
                    if found is not None:
                        self._shares.serve(project_id, turn.cost)
                        project.shares.serve(caller, turn.cost)
                        self.remove(turn, item)
                        return item, found
        return None

    def charge(self, turn: Turn, tokens: int) -> None:
        self._shares.charge(turn.project_id, tokens)
        project = self._projects.get(turn.project_id)
        if project is not None:
            project.shares.charge(turn.caller, tokens)

    def rival(self, turn: Turn) -> T | None:
        largest = max(self._waiting, key=lambda each: len(self._projects[each]), default=None)
        if largest is None:
            return None
        ours = len(self._projects[turn.project_id]) if turn.project_id in self._waiting else 0
        if largest != turn.project_id and len(self._projects[largest]) > ours + 1:
            project, mine = self._projects[largest], 0
        elif turn.project_id in self._waiting:
            project = self._projects[turn.project_id]
            mine = len(project.keys.get(turn.caller, ())) + 1
        else:
            return None
        requests = max(project.keys.values(), key=len)
        return next(reversed(requests)) if len(requests) > mine else None

    def __iter__(self) -> Iterator[T]:
        for project_id in self._projects:
            for requests in self._projects[project_id].keys.values():
                yield from requests


class FairQueue(Generic[T]):
    """The requests that wait for one deployment. Only for one thread; `T` must be hashable and is given in once."""

    def __init__(self) -> None:
        self._people: _Rank[T] = _Rank()
        self._background: _Rank[T] = _Rank()

    def _rank(self, turn: Turn) -> _Rank[T]:
        return self._background if turn.background else self._people

    def num_like(self, turn: Turn) -> int:
        """How many wait in the same rank: people or background."""
        return self._rank(turn).num_waiting

    def add(self, turn: Turn, item: T) -> None:
        """Let a request wait."""
        self._rank(turn).add(turn, item)

    def remove(self, turn: Turn, item: T) -> bool:
        """A request waits no longer; False where it did not."""
        return self._rank(turn).remove(turn, item)

    def take(self, fits: Callable[[T], R | None]) -> tuple[T, R] | None:
        """The next request that can be served now, out of the queue, with what `fits` found for it."""
        return self._people.take(fits) or self._background.take(fits)

    def charge(self, turn: Turn, tokens: int) -> None:
        """Count tokens of an answer against whoever asked; without effect on those who do not wait for anything."""
        self._rank(turn).charge(turn, tokens)

    def rival(self, turn: Turn) -> T | None:
        """The request that should give its place to a new one: the newest of whoever has most waiting, if that is more."""
        return self._rank(turn).rival(turn)

    def __len__(self) -> int:
        return self._people.num_waiting + self._background.num_waiting

    def __iter__(self) -> Iterator[T]:
        yield from self._people
        yield from self._background
