"""What is reserved is never more than is allowed, what is settled is exact, and nothing is lost with a process that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from modelworks.contract.errors import ModelworksError, QuotaExceeded, RateLimited
from modelworks.kernel.access import Admission, Allowances, Demand, Ledger, Prices, Reservation, UsageRecord, UsageRecorder
from modelworks.kernel.access.allowances import BudgetSet, LimitSet, Shown
from modelworks.kernel.access.invoices import invoices, verify
from modelworks.kernel.access.ledger import LOST
from modelworks.kernel.access.prices import PriceSet, Rate
from modelworks.kernel.access.store import EntryRow, InvoiceRow, ProjectRow, ReservationRow, UsageRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.database import Base, Database
from modelworks.kernel.base.events import Events

START = datetime(2026, 11, 22, 10, tzinfo=UTC)


class Books:
    """The accounts of one process over a database, without its thread: every step is a transaction of the test's."""

    def __init__(self, db: Database, clock: FixedClock) -> None:
        self.db, self.clock, self.events = db, clock, Events()
        self.ledger = Ledger(clock, lease_s=60)
        self.allowances = Allowances(clock, self.events)
        self.prices = Prices(clock, self.events)
        self.admission = Admission(db, UsageRecorder(db, self.ledger), clock, self.events)
        with db.transaction() as session:
            if session.get(ProjectRow, "prj_1") is None:
                session.add(ProjectRow(id="prj_1", name="one", created_at=clock.now()))

    def set(self, wanted: BudgetSet | LimitSet) -> Shown:
        with self.db.transaction() as session:
            return self.allowances.set(session, "prj_1", wanted)

    def state(self, allowance: Shown) -> tuple[int, int]:
        with self.db.reading() as session:
            found = self.allowances.get(session, "prj_1", allowance.id)
        return found.used, found.reserved

    def price(self, **wanted: Any) -> None:
        with self.db.transaction() as session:
            self.prices.set(session, PriceSet(**wanted))

    def ask(self, *, prompt: int = 10, completion: int = 0, key: str = "key_1", model: str = "chat") -> tuple[Rate | None, Any]:
        demand = Demand(
            project_id="prj_1",
            key_id=key,
            model=model,
            endpoint="/v1/chat/completions",
            request_id="req_1",
            prompt_tokens=prompt,
            completion_tokens=completion,
            likely_tokens=prompt + completion,
        )
        return asyncio.run(self.admission.meet(demand))

    def take(self, *items: UsageRecord | Reservation) -> list[ModelworksError | None]:
        with self.db.writing() as connection:
            return self.ledger.take(connection, items)

    def reserve(self, **asked: Any) -> Reservation:
        reservation = self.ask(**asked)[1]
        (refusal,) = self.take(reservation)
        if refusal is not None:
            raise refusal
        assert isinstance(reservation, Reservation)
        return reservation

    def settle(self, held: Reservation, prompt: int, completion: int, rate: Rate | None = None, **more: Any) -> None:
        self.take(record(held, prompt, completion, rate, **more))

    def tend(self) -> int:
        with self.db.writing() as connection:
            return self.ledger.tend(connection)

    def agree(self) -> None:
        with self.db.reading() as session:
            found = verify(session)
        assert found.ok, found.first_difference

    def count(self, table: type[Base]) -> int:
        with self.db.reading() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


def record(
    held: Reservation | None, prompt: int, completion: int, rate: Rate | None = None, cached: int = 0, **more: Any
) -> UsageRecord:
    fields: dict[str, Any] = {
        "project_id": "prj_1",
        "key_id": "key_1",
        "endpoint": "/v1/chat/completions",
        "model": "chat",
        "request_id": "req_1",
        "status": 200,
        "created_at": START,
    }
    if held is not None:
        fields |= {"id": held.id, "claims": held.claims}
    if rate is not None:
        fields |= {"cost": rate.cost(prompt, cached, completion), "price_id": rate.id}
    return UsageRecord(**{**fields, **more}, prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


@pytest.fixture
def moving() -> FixedClock:
    return FixedClock(START)


@pytest.fixture
def books(database: Database, moving: FixedClock) -> Books:
    return Books(database, moving)


def test_a_reservation_holds_the_most_and_is_settled_with_what_was_counted(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=100))
    held = books.reserve(prompt=30, completion=50)
    assert books.state(budget) == (0, 80)
    books.settle(held, 12, 7)
    assert books.state(budget) == (19, 0)
    assert books.count(ReservationRow) == 0
    books.agree()


def test_an_exhausted_budget_says_which_how_much_and_until_when(books: Books) -> None:
    budget = books.set(BudgetSet(scope="model", subject="chat", metric="tokens", period="day", amount=1000))
    books.settle(books.reserve(prompt=990), 990, 0)
    with pytest.raises(QuotaExceeded) as refused:
        books.reserve(prompt=11, model="chat@production")
    assert refused.value.error_code == "insufficient_quota"
    assert not refused.value.retryable
    for word in ("per day", "the model 'chat'", "990 of 1,000 tokens", "may need 11", "2026-11-23T00:00:00Z"):
        assert word in refused.value.message
    assert books.state(budget) == (990, 0)
    assert books.ask(model="other")[1] is None
    assert books.reserve(prompt=10).claims


def test_room_that_others_only_hold_is_worth_another_try(books: Books) -> None:
    books.set(BudgetSet(metric="tokens", amount=100))
    held = books.reserve(prompt=80)
    with pytest.raises(RateLimited) as refused:
        books.reserve(prompt=30)
    assert not isinstance(refused.value, QuotaExceeded)
    assert refused.value.retryable
    assert refused.value.retry_after_s
    books.settle(held, 1, 1)
    books.reserve(prompt=30)


def test_every_budget_must_have_room_or_none_is_touched(books: Books) -> None:
    wide = books.set(BudgetSet(metric="tokens", amount=10_000))
    books.price(model="chat", input=1_000_000, output=3_000_000)
    narrow = books.set(BudgetSet(metric="cost", period="day", amount=100))
    assert books.reserve(prompt=10, completion=20).cost == 70
    with pytest.raises(ModelworksError, match="per day"):
        books.reserve(prompt=31, completion=0)
    assert books.state(wide) == (0, 30)
    assert books.state(narrow) == (0, 70)


def test_of_many_at_once_those_that_fit_are_granted_in_their_order(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=100))
    asked = [books.ask(prompt=prompt)[1] for prompt in (40, 50, 20, 10)]
    outcomes = books.take(*asked)
    assert [outcome is None for outcome in outcomes] == [True, True, False, True]
    assert books.state(budget) == (0, 100)
    assert books.take(*[record(each, 1, 0) for each, outcome in zip(asked, outcomes, strict=True) if outcome is None])
    assert books.state(budget) == (3, 0)


def test_a_new_day_starts_anew_and_a_request_belongs_to_the_day_on_which_it_began(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", period="day", amount=100))
    held = books.reserve(prompt=100)
    books.clock.advance(15 * 3600)
    assert books.state(budget) == (0, 0)
    later = books.reserve(prompt=100)
    books.settle(held, 60, 0)
    assert books.state(budget) == (0, 100)
    books.settle(later, 5, 0)
    assert books.state(budget) == (5, 0)


def test_a_budget_knows_what_was_used_before_it_was_set(books: Books) -> None:
    books.take(record(None, 10, 5), record(None, 1, 1, model="chat@best"), record(None, 50, 50, model="chatty"))
    assert books.set(BudgetSet(metric="tokens", amount=1000)).used == 117
    assert books.set(BudgetSet(scope="model", subject="chat", metric="tokens", amount=1000)).used == 17
    assert books.set(BudgetSet(scope="model", subject="chat", metric="requests", period="day", amount=10)).used == 2


def test_changing_a_budget_holds_at_once_and_keeps_what_is_used(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=100))
    books.settle(books.reserve(prompt=50), 50, 0)
    asked = books.ask(prompt=60)[1]
    changed = books.set(BudgetSet(metric="tokens", amount=200))
    assert (changed.id, changed.used) == (budget.id, 50)
    # The claim was made before, by a process that does not know of the change yet.
    assert books.take(asked) == [None]


def test_a_budget_that_was_removed_meanwhile_refuses_nobody(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=1))
    asked = books.ask(prompt=60)[1]
    with books.db.transaction() as session:
        books.allowances.remove(session, "prj_1", budget.id)
    assert books.take(asked) == [None]
    books.settle(asked, 20, 3)
    assert books.ask()[1] is None
    books.agree()


def test_concurrency_counts_what_is_under_way(books: Books) -> None:
    books.set(LimitSet(metric="concurrency", amount=2))
    first, _ = books.reserve(), books.reserve()
    with pytest.raises(RateLimited, match="2 requests of this project are under way"):
        books.reserve()
    books.settle(first, 1, 1, status=499, aborted=True)
    books.reserve()


def test_requests_per_minute_are_refused_exactly_where_the_bucket_is_empty(books: Books) -> None:
    books.set(LimitSet(metric="requests", amount=4))
    headers = [dict(books.reserve().headers) for _ in range(4)]
    assert [found[b"x-ratelimit-remaining-requests"] for found in headers] == [b"3", b"2", b"1", b"0"]
    assert headers[0][b"x-ratelimit-limit-requests"] == b"4"
    assert headers[3][b"x-ratelimit-reset-requests"] == b"1m0s"
    with pytest.raises(RateLimited) as refused:
        books.reserve()
    assert refused.value.error_code == "rate_limit_exceeded"
    assert refused.value.retryable
    assert refused.value.retry_after_s == pytest.approx(15.0)
    books.clock.advance(14.9)
    with pytest.raises(RateLimited):
        books.reserve()
    books.clock.advance(0.1)
    books.reserve()


def test_tokens_per_minute_are_settled_with_what_was_counted(books: Books) -> None:
    books.set(LimitSet(scope="model", subject="chat", metric="tokens", amount=6000))
    held = books.reserve(prompt=1000, completion=5000)
    with pytest.raises(RateLimited):
        books.reserve(prompt=1000)
    books.settle(held, 900, 100)
    given_back = books.reserve(prompt=1000)
    assert dict(given_back.headers)[b"x-ratelimit-remaining-tokens"] == b"4000"
    books.settle(given_back, 1000, 4000)
    with pytest.raises(RateLimited) as refused:
        books.reserve(prompt=100)
    assert refused.value.retry_after_s == pytest.approx(1.0)


def test_a_request_larger_than_its_limit_waits_for_a_full_bucket_and_no_longer(books: Books) -> None:
    books.set(LimitSet(metric="tokens", amount=60))
    books.settle(books.reserve(prompt=500), 500, 0)
    with pytest.raises(RateLimited) as refused:
        books.reserve(prompt=500)
    # It used far more than was let through: the debt is paid back too.
    assert refused.value.retry_after_s == pytest.approx(500.0)
    books.clock.advance(500)
    books.reserve(prompt=500)


def test_what_a_dead_process_held_is_counted_in_full_once_and_the_late_answer_changes_nothing(
    books: Books, moving: FixedClock
) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=1000))
    at_once = books.set(LimitSet(metric="concurrency", amount=1))
    books.price(model="*", input=2_000_000, cached=1_000_000, output=4_000_000)
    rate, _ = books.ask()
    held = books.reserve(prompt=10, completion=5)
    other = Books(books.db, moving)
    moving.advance(59)
    assert other.tend() == 0
    moving.advance(2)
    assert other.tend() == 1
    assert other.tend() == 0
    assert books.state(budget) == (15, 0)
    assert books.state(at_once) == (0, 0)
    books.settle(held, 1, 1, rate)
    assert books.state(budget) == (15, 0)
    with books.db.reading() as session:
        (lost,) = session.scalars(select(UsageRow))
    assert (lost.id, lost.error_code, lost.cost, lost.prompt_tokens) == (held.id, LOST, 40, 10)
    books.agree()


def test_a_process_that_lives_keeps_what_it_holds(books: Books, moving: FixedClock) -> None:
    books.set(BudgetSet(metric="tokens", amount=1000))
    books.reserve(prompt=10)
    other = Books(books.db, moving)
    for _ in range(10):
        moving.advance(15)
        assert books.tend() == 0
        assert other.tend() == 0
    assert books.count(ReservationRow) == 1


def test_a_process_that_ends_in_order_leaves_nothing_behind(books: Books) -> None:
    budget = books.set(BudgetSet(metric="tokens", amount=1000))
    books.reserve(prompt=10)
    with books.db.writing() as connection:
        books.ledger.leave(connection)
    assert books.state(budget) == (10, 0)
    books.agree()


def test_prices_hold_from_their_moment_on_and_the_nearest_one_counts(books: Books) -> None:
    assert books.ask()[0] is None
    books.price(model="*", input=1, output=1)
    books.price(model="chat", input=2, output=2, valid_from=datetime(2026, 11, 23, tzinfo=UTC))
    books.price(model="*", input=3, output=3, project_id="prj_1")

    def now(model: str) -> int:
        rate = books.ask(model=model)[0]
        assert rate is not None
        return rate.input

    assert (now("chat@best"), now("other")) == (3, 3)
    books.price(model="chat", input=4, output=4, project_id="prj_1")
    assert (now("chat"), now("other")) == (4, 3)
    books.clock.advance(24 * 3600)
    assert now("chat") == 4
    with books.db.reading() as session:
        assert [price.input for price in books.prices.list(session, "prj_1", "chat")] == [2, 4]
        assert [price.input for price in books.prices.list(session, "prj_2", "chat")] == [2]


def test_a_cost_is_exact_and_rounded_up_once() -> None:
    rate = Rate("prc_1", 150_000, 75_000, 600_000)
    assert rate.cost(1, 0, 0) == 1
    assert rate.cost(1_000_000, 0, 0) == 150_000
    assert rate.cost(1_000_000, 1_000_000, 0) == 75_000
    assert rate.cost(20, 10, 5) == 6  # 1.5 + 0.75 + 3.0 = 5.25
    assert rate.cost(10, 99, 0) == 1
    assert rate.most(20, 5) == 6
    assert rate.cost(0, 0, 0) == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (update(UsageRow).values(prompt_tokens=UsageRow.prompt_tokens + 1), "tokens of the ledger"),
        (update(EntryRow).where(EntryRow.account.startswith("model:")).values(cost=0), "add up to no cost"),
        (delete(EntryRow), "tokens of the ledger"),
        (update(InvoiceRow).values(cost=InvoiceRow.cost + 1), "cost of the invoice"),
        (update(InvoiceRow).values(num_requests=7), "num_requests of the invoice"),
        (delete(UsageRow), "tokens of the ledger"),
        (update(UsageRow).values(price_id=None), "at its price"),
    ],
)
def test_the_first_difference_is_found(books: Books, change: Any, what: str) -> None:
    books.price(model="*", input=1_000_000, output=2_000_000)
    rate, _ = books.ask()
    records = [record(None, 10, 5, rate), record(None, 20, 5, rate, created_at=datetime(2026, 12, 1, tzinfo=UTC))]
    books.take(*records)
    books.agree()
    with books.db.reading() as session:
        assert [(each.month, each.cost, each.num_requests) for each in invoices(session, "prj_1")] == [
            ("2026-12", 30, 1),
            ("2026-11", 20, 1),
        ]
    with books.db.writing() as connection:
        connection.execute(change)
    with books.db.reading() as session:
        found = verify(session).first_difference
        assert verify(session, "prj_2").ok
    assert found is not None
    assert what in found.what
    assert (found.project_id, found.month) == ("prj_1", "2026-11")
    if "invoice" not in what:
        assert found.request == records[0].id


@pytest.fixture
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'test.db'}")
    Base.metadata.create_all(db.engine)
    yield db
    db.dispose()


_STEP = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 60), st.integers(0, 60)),
    st.tuples(st.just("settle"), st.integers(0, 7), st.integers(0, 100)),
    st.tuples(st.just("abort"), st.integers(0, 7), st.integers(0, 100)),
    st.tuples(st.just("die"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 40), st.just(0)),
    st.tuples(st.just("raise"), st.integers(0, 300), st.just(0)),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, max_size=25))
def test_whatever_happens_the_sums_agree(fast: Database, steps: list[tuple[str, int, int]]) -> None:
    with fast.writing() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    clock = FixedClock(START)
    books = Books(fast, clock)
    books.price(model="*", input=1_500_000, cached=700_000, output=2_500_000)
    rate, _ = books.ask()
    assert rate is not None
    tokens = books.set(BudgetSet(metric="tokens", amount=200))
    cost = books.set(BudgetSet(metric="cost", period="month", amount=400))
    held: list[Reservation] = []
    abandoned: list[Reservation] = []
    most = 200
    for what, first, second in steps:
        if what == "reserve":
            used, reserved = books.state(tokens)
            room = used + reserved + first + second <= most
            used, reserved = books.state(cost)
            room = room and used + reserved + rate.most(first, second) <= 400
            try:
                held.append(books.reserve(prompt=first, completion=second))
            except RateLimited:
                assert not room
            else:
                assert room
        elif what in ("settle", "abort") and first < len(held):
            done = held.pop(first)
            prompt, completion = done.prompt_tokens, done.completion_tokens * second // 100
            books.settle(done, prompt, completion, rate, cached=prompt // 2, aborted=what == "abort")
        elif what == "die":
            abandoned.extend(held)
            held = []
            books = Books(fast, clock)
        elif what == "wait":
            clock.advance(first)
            if held:
                books.tend()
            books.tend()
        elif what == "raise":
            most = first
            books.set(BudgetSet(metric="tokens", amount=first))
    for done in held:
        books.settle(done, 1 if done.prompt_tokens else 0, 0, rate)
    clock.advance(61)
    Books(fast, clock).tend()
    books.agree()
    with fast.reading() as session:
        rows = list(session.scalars(select(UsageRow)))
        assert session.scalar(select(func.count()).select_from(ReservationRow)) == 0
    assert books.state(tokens) == (sum(row.prompt_tokens + row.completion_tokens for row in rows), 0)
    assert books.state(cost) == (sum(row.cost for row in rows), 0)
    assert {row.id for row in rows if row.error_code == LOST} == {each.id for each in abandoned}
