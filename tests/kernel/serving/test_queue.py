"""Who is next: shares over a simulated deployment, whatever arrives, leaves or is answered in between."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from modelworks.kernel.serving.queue import FairQueue, Turn


@dataclass(eq=False)
class Asked:
    """A request of the simulation."""

    turn: Turn
    #: Where it may be answered; everywhere when empty.
    side: str = ""


def add(queue: FairQueue[Asked], project: str, caller: str = "key", cost: int = 1, background: bool = False) -> Asked:
    asked = Asked(Turn(project, caller, cost, background))
    queue.add(asked.turn, asked)
    return asked


def anyone(_asked: Asked) -> bool:
    return True


def served(queue: FairQueue[Asked], number: int) -> list[Asked]:
    found = []
    for _ in range(number):
        taken = queue.take(anyone)
        assert taken is not None
        found.append(taken[0])
    return found


def test_one_request_does_not_wait_behind_a_thousand() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for _ in range(1000):
        add(queue, "many")
    served(queue, 100)
    lonely = add(queue, "one")
    assert lonely in served(queue, 2)


def test_a_key_of_a_project_does_not_starve_another_key() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for _ in range(1000):
        add(queue, "prj", "many")
    lonely = add(queue, "prj", "one")
    assert lonely in served(queue, 2)


def test_projects_share_alike_however_many_keys_they_have() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for number in range(300):
        add(queue, "wide", f"key {number % 10}")
        add(queue, "narrow", "key")
    taken = Counter(asked.turn.project_id for asked in served(queue, 100))
    assert taken == {"wide": 50, "narrow": 50}


def test_people_are_served_before_the_background() -> None:
    queue: FairQueue[Asked] = FairQueue()
    batch = add(queue, "prj", background=True)
    people = [add(queue, "prj") for _ in range(5)]
    assert served(queue, 6) == [*people, batch]


def test_requests_of_one_caller_keep_their_order() -> None:
    queue: FairQueue[Asked] = FairQueue()
    asked = [add(queue, "prj", cost=cost) for cost in (5, 1, 9, 2)]
    assert served(queue, 4) == asked


def test_nobody_saves_up_turns_while_away() -> None:
    queue: FairQueue[Asked] = FairQueue()
    add(queue, "early")
    served(queue, 1)
    for _ in range(200):
        add(queue, "busy")
    served(queue, 100)
    for _ in range(200):
        add(queue, "early")
    taken = Counter(asked.turn.project_id for asked in served(queue, 20))
    assert taken["early"] <= 11


def test_long_answers_are_charged_when_their_length_is_known() -> None:
    queue: FairQueue[Asked] = FairQueue()
    for _ in range(50):
        add(queue, "long", cost=10)
        add(queue, "short", cost=10)
    for _ in range(40):
        (asked,) = served(queue, 1)
        queue.charge(asked.turn, 90 if asked.turn.project_id == "long" else 0)
    # 400 tokens for one request of "long" buy ten of "short".
    left = Counter(asked.turn.project_id for asked in queue)
    assert 50 - left["long"] <= 6
    assert 50 - left["short"] >= 34


@pytest.mark.parametrize("seed", range(8))
def test_backlogged_callers_differ_by_no_more_than_a_request(seed: int) -> None:
    """The bound of virtual token counters: max cost of a request, whatever else comes and goes."""
    chance = random.Random(seed)
    queue: FairQueue[Asked] = FairQueue()
    greedy = [("prj a", "k1"), ("prj a", "k2"), ("prj b", "k1")]
    most = 50
    for project, caller in greedy:
        for _ in range(600):
            add(queue, project, caller, chance.randint(1, most))
    strangers: list[Asked] = []
    spent: Counter[str] = Counter()
    for _ in range(600):
        if chance.random() < 0.3:
            strangers.append(add(queue, f"prj {chance.randint(0, 5)}", f"k{chance.randint(3, 9)}", chance.randint(1, most)))
        if strangers and chance.random() < 0.2:
            gone = strangers.pop(chance.randrange(len(strangers)))
            queue.remove(gone.turn, gone)
        (asked,) = served(queue, 1)
        spent[asked.turn.project_id] += asked.turn.cost
        if (asked.turn.project_id, asked.turn.caller) in greedy:
            spent[f"{asked.turn.project_id} {asked.turn.caller}"] += asked.turn.cost
        assert abs(spent["prj a"] - spent["prj b"]) <= most
        assert abs(spent["prj a k1"] - spent["prj a k2"]) <= most
    before = len(queue)
    assert len({*queue}) == before == len(served(queue, before))
    assert queue.take(anyone) is None


def test_who_cannot_be_served_now_holds_up_nobody() -> None:
    queue: FairQueue[Asked] = FairQueue()
    left = [Asked(Turn("prj", "a"), "left") for _ in range(3)]
    right = Asked(Turn("prj", "b"), "right")
    for asked in (*left, right):
        queue.add(asked.turn, asked)
    taken = queue.take(lambda asked: asked.side == "right" or None)
    assert taken is not None
    assert taken[0] is right
    assert queue.take(lambda asked: asked.side == "right" or None) is None
    assert len(queue) == 3


def test_a_newcomer_takes_the_place_of_the_newest_of_whoever_has_most() -> None:
    queue: FairQueue[Asked] = FairQueue()
    many = [add(queue, "many") for _ in range(4)]
    assert queue.rival(Turn("one")) is many[-1]
    assert queue.rival(Turn("many", "other key")) is many[-1]
    # One more of its own would only be another's loss.
    assert queue.rival(Turn("many", "key")) is None
    queue.remove(many[-1].turn, many[-1])
    queue.remove(many[-2].turn, many[-2])
    add(queue, "one")
    assert queue.rival(Turn("one")) is None
    assert queue.rival(Turn("one", "other key", background=True)) is None


def test_removing_twice_changes_nothing() -> None:
    queue: FairQueue[Asked] = FairQueue()
    asked = add(queue, "prj")
    assert queue.remove(asked.turn, asked)
    assert not queue.remove(asked.turn, asked)
    assert len(queue) == 0


def test_memory_does_not_grow_with_callers_that_went_away() -> None:
    queue: FairQueue[Asked] = FairQueue()
    add(queue, "stays")
    for number in range(5000):
        asked = add(queue, f"prj {number}", f"key {number}")
        queue.remove(asked.turn, asked)
    assert len(queue._people._projects) < 200
    assert len(queue._people._shares._spent) < 200
