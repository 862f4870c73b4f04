"""What a user may write, without a complaint of mypy or pyright in strict mode, and the types that come out.

Only the checkers read the functions in this file; `test_checkers` runs them over it, and imports it once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any, ClassVar, assert_type
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import dexpy
from dexpy import (
    Async,
    BatchTicket,
    Cancelled,
    Err,
    Error,
    Ok,
    Operation,
    OptRef,
    PropsError,
    Recording,
    Ref,
    Refs,
    Reset,
    Retry,
    Runtime,
    Ticket,
    TimedOut,
    WorkerLost,
    after,
    around,
    batch,
    before,
    configure,
    enqueue_all,
    guard,
    prop,
    records,
    register_model_loader,
    register_type,
    trace,
)
from dexpy.testing import isolated


class Base(DeclarativeBase):
    """Models of an application."""


class Customer(Base):
    """A model."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    mail: Mapped[str]
    suspended: Mapped[bool] = mapped_column(default=False)
    balance: Mapped[Decimal] = mapped_column(default=Decimal(0))


class MailboxClosed(Exception):
    """Not worth another attempt."""


class CardError(Exception):
    """An exception of another library."""


# The example at the top of the public face.


class SendStatement(Operation):
    """Send a customer the statement of one month."""

    customer: Ref[Customer]
    month: dt.date
    limit: Decimal = prop(default=Decimal(10), ge=0, desc="smallest balance worth sending")
    note: str | None = None

    async_ = Async(queue="mailers", priority=5)
    retry_on = (Retry(ConnectionError, attempts=5, wait="polynomially_longer"),)
    discard_on = (MailboxClosed,)
    rescue_from = {CardError: "card_declined"}
    errors = {"no_balance", "card_declined"}

    @guard("The customer must be active")
    def customer_suspended(self) -> bool:
        return self.customer.suspended

    def perform(self) -> str:
        if self.customer.balance < self.limit:
            raise Error("no_balance", "Nothing to send", details={"balance": str(self.customer.balance)})
        return f"{self.customer.mail}: {self.month:%B}"


class SendWelcome(Operation, name="customers.welcome", aliases=("old.Welcome",)):
    """Every kind of reference."""

    customer: Ref[Customer] = prop(lock=True)
    referrer: OptRef[Customer] = prop(default=None)
    friends: Refs[Customer] = prop(factory=list)
    amount: Decimal = prop(default=Decimal(1), ge=0)
    name: str | None = None
    async_ = Async(queue="mailers")

    def perform(self) -> int:
        return len(self.customer.mail) + sum(len(friend.mail) for friend in self.friends)


class CustomerOperation(Operation):
    """References that a base class declares."""

    customer: Ref[Customer]
    referrer: OptRef[Customer] = prop(default=None)
    friends: Refs[Customer] = prop(factory=list)


class Greet(CustomerOperation):
    """A subclass that reads them."""

    def perform(self) -> str:
        others = [friend.mail for friend in self.friends]
        return ", ".join([self.customer.mail, *others, self.referrer.mail if self.referrer else ""])


class GreetWarmly(Greet):
    """One level more, with a prop of its own."""

    warmth: int = 1

    def perform(self) -> str:
        return f"{self.customer.mail}{'!' * self.warmth}"


def greetings() -> list[str]:
    """Both of them, called."""
    return [Greet(customer=1, friends=[2, 3]).call(), GreetWarmly(customer=1, referrer=2, warmth=3).call()]


class Download(Operation):
    """An ``async def perform``."""

    url: str

    async def perform(self) -> bytes:
        await self.in_session(lambda session: session.get(Customer, 1))
        return self.url.encode()


# Policies, as base classes and subclasses have them.


class ApplicationOperation(Operation):
    """The common policy of an application.

    Between `Operation` and a class that overrides again, mypy holds the second to the exact type of the first's value:
    a tuple of one. So the class in between says what it may be; pyright asks for none of this.
    """

    retry_on: ClassVar[tuple[Retry | Reset, ...]] = (
        Retry(ConnectionError, TimeoutError, attempts=None, wait=dt.timedelta(seconds=2), jitter=0),
    )
    record: ClassVar[bool | Recording] = False
    rescue_from = {CardError: "card_declined", KeyError: ValueError}
    errors = {"card_declined": "The card was declined"}


class Charge(ApplicationOperation):
    """Policies over those of the base."""

    amount: Decimal

    async_ = Async(queue=lambda op: f"shard-{op.amount % 4}", in_=5)
    retry_on = (Reset(), Retry("card_declined", wait=lambda attempt: attempt * 2))
    discard_on = (MailboxClosed, "gone")
    rescue_from = {OSError: lambda operation, error: None}
    errors = {"gone": "The card is gone"}
    record = Recording(params=True, result=False)
    transaction = False

    def perform(self) -> None:
        print(self.amount)


class Crawl(Operation):
    """Everything that may end a run from outside."""

    url: str
    timeout = 30
    max_lost = 5
    async_ = Async(expires_in=dt.timedelta(hours=1))
    retry_on = (Retry(TimedOut, WorkerLost, attempts=2, wait=60),)

    def perform(self) -> int:
        for page in range(9):
            self.check_cancelled()
            assert_type(self.check_cancelled(), None)
            print(page)
        return 9


class CrawlFast(Operation):
    """Limits in their other forms."""

    timeout = dt.timedelta(seconds=2.5)
    max_lost = 0

    async def perform(self) -> None:
        try:
            self.check_cancelled()
        except Cancelled as error:
            assert_type(error, Cancelled)
            raise


class CrawlForEver(Operation):
    """No limit, in so many words."""

    timeout = None

    def perform(self) -> None: ...


class InParts(Operation):
    """Transactions by hand: to mypy a plain ``transaction = False`` would be a bool, which cannot be called."""

    transaction: ClassVar[Any] = False
    errors = frozenset({"gone"})

    def perform(self) -> None:
        with self.transaction() as session:
            session.flush()


class Unrecorded(Operation):
    """A run that leaves no record."""

    record = False
    discard_on = (MailboxClosed,)
    errors = ["one", "two"]
    async_ = Async(in_=dt.timedelta(minutes=1), priority=-1)

    def perform(self) -> dict[str, list[int]]:
        return {"a": [1]}

    def on_error(self, error: Exception) -> None:
        print(type(error).__name__, self.run_id)


class Hooked(Operation):
    """Guards and callbacks stay the methods that they are."""

    count: int = prop(default=1, gt=0, le=10)

    @guard()
    def too_many(self) -> bool:
        return self.count > 5

    @guard("Not on its own", requires="too_many")
    def alone(self) -> bool:
        return self.count == 1

    @before
    def observe(self) -> None:
        self.after_commit(lambda: print(self.count))

    @after
    def tidy(self) -> None:
        self.session.expire_all()

    @around
    def announced(self, proceed: Callable[[], None]) -> None:
        proceed()

    def perform(self) -> int:
        return self.count


def props_and_references(op: SendWelcome, customer: Customer) -> None:
    assert_type(op.customer, Customer)
    assert_type(op.referrer, Customer | None)
    assert_type(op.friends, list[Customer])
    assert_type(op.amount, Decimal)
    assert_type(op.name, str | None)
    SendWelcome(customer=customer)
    SendWelcome(customer=3, referrer=customer, friends=[customer, 4], name="x")
    SendWelcome(customer="key", referrer=UUID(int=0), friends=(customer, UUID(int=0)))
    SendWelcome(customer=(1, "b", dt.date(2026, 1, 1)), referrer=None, friends=[])
    assert_type(SendWelcome.parse({"customer": 3}), SendWelcome)


def calls(op: SendStatement) -> str:
    assert_type(op.call(), str)
    assert_type(op.safe.call(), Ok[str] | Err)
    match op.safe.call():
        case Ok(value):
            assert_type(value, str)
            return value
        case Err("no_balance", message):
            assert_type(message, str)
            return message
        case Err(code, message, details):
            assert_type(code, str)
            return f"{code}: {message} {details['balance']}"


def calls_of_an_async_perform(op: Download) -> None:
    assert_type(op.call(), bytes)
    assert_type(op.safe.call(), Ok[bytes] | Err)
    assert_type(op.async_().call(), Ticket[bytes])


async def calls_from_asyncio(op: SendWelcome, download: Download) -> None:
    assert_type(await op.acall(), int)
    assert_type(await download.acall(), bytes)
    assert_type(await op.safe.acall(), Ok[int] | Err)
    assert_type(await download.safe.acall(), Ok[bytes] | Err)
    assert_type(await op.async_(queue="x").acall(), Ticket[int])
    ticket = await download.async_().acall()
    assert_type(ticket, Ticket[bytes])
    assert_type(await ticket.aresult(3), bytes)


def the_background(op: SendWelcome, session: Session, connection: Connection) -> None:
    op.async_(session=connection)
    assert_type(enqueue_all([op, op], in_=5, session=connection), list[Ticket[int]])
    with batch(name="welcomes", on_success=op, session=session) as welcomes:
        assert_type(welcomes.add(op, priority=3), Ticket[int])
        assert_type(welcomes.add_all([op, op]), list[Ticket[int]])
        assert_type(op.async_(batch=welcomes).call(), Ticket[int])
        assert_type(enqueue_all([op], batch=welcomes), list[Ticket[int]])
    assert_type(welcomes.ticket, BatchTicket)
    assert_type(welcomes.ticket.add(op), Ticket[int])
    assert_type(welcomes.ticket.callback("success"), Ticket[Any] | None)
    op.async_(queue="critical", in_=5, priority=3)
    op.async_(queue=lambda op: "a", in_=dt.timedelta(hours=1), session=session)
    op.async_(in_=5, expires_in=60)
    op.async_(expires_in=dt.timedelta(days=1))
    ticket = op.async_(at=dt.datetime.now(dt.timezone.utc)).call()
    assert_type(ticket, Ticket[int])
    assert_type(ticket.result(3), int)
    assert_type(ticket.result(3, interval=lambda looks: 0.1 * looks), int)
    assert_type(ticket.wait(3), Ok[int] | Err | None)
    assert_type(ticket.outcome, Ok[int] | Err | None)
    assert_type(ticket.reload(), Ticket[int])
    assert_type(ticket.retry().cancel().expire(), Ticket[int])
    assert_type(ticket.status, str)
    assert_type(ticket.duplicate, bool)
    assert_type(ticket.to_dict(), dict[str, Any])
    assert_type(Unrecorded().async_().call().result(1), dict[str, list[int]])
    assert_type(Charge(amount=Decimal(1)).call(), None)
    tickets: list[dexpy.Ticket[Any]] = [ticket, Ticket.get("op_1"), dexpy.Ticket.get("op_2")]
    print(tickets)


def hooks_stay_methods(op: Hooked, proceed: Callable[[], None]) -> None:
    assert_type(op.too_many(), bool)
    assert_type(op.observe(), None)
    assert_type(op.tidy(), None)
    assert_type(op.announced(proceed), None)
    threats: list[Callable[[], bool]] = [op.too_many, op.alone]
    unbound: Callable[[Hooked], bool] = Hooked.too_many
    print(threats, unbound)


def a_base_class_serves_any_operation(op: Operation) -> Awaitable[Any]:
    print(op.call(), op.safe.call(), op.async_().call().id)
    return op.acall()


def recorded_runs() -> None:
    for record in records.where(operation=SendStatement, status="failed", since=dt.timedelta(days=1)).newest_first():
        assert_type(record, records.Record)
        assert_type(record.status, str)
        assert_type(record.params, dict[str, Any] | None)
        assert_type(record.duration, dt.timedelta | None)
        assert_type(record.retry(), records.Record)
        assert_type(record.ticket, Ticket[Any])
    assert_type(records.failed().for_trace("tr_1").count(), int)
    assert_type(records.all().first(), records.Record | None)
    assert_type(records.get("op_1"), records.Record)
    assert_type(records.attempts("op_1"), list[records.Attempt])
    assert_type(records.where(params={"customer": 42}).select(), Select[Any])
    assert_type(dexpy.records.where().limit(3).page(10).next, str | None)
    # Names of columns of the application are known at run time only, where an unknown one is an error.
    dexpy.records.where(tenant="acme")
    one_by_one: Iterator[records.Record] = iter(records.pending())
    print(one_by_one)
    assert_type(records.prune(older_than=dt.timedelta(days=30), statuses=["done"], batch=100, dry_run=True), int)


def running(factory: Callable[[], Session], session: Session) -> None:
    assert_type(configure(database="sqlite://", session_factory=factory, redactor=str.upper), Runtime)
    with dexpy.session(session) as current:
        assert_type(current, Session)
        assert_type(dexpy.current_session(), Session)
    with trace(actor={"type": "user", "id": 7}) as frame:
        assert_type(frame.trace_id, str)
    with isolated() as isolated_runtime:
        assert_type(isolated_runtime.run_pending(), list[Ticket[Any]])
        isolated_runtime.advance(dt.timedelta(days=1))


def errors_carry_their_facts(op: SendStatement) -> None:
    try:
        op.call()
    except Error as error:
        assert_type(error.code, str)
        assert_type(error.details, dict[str, Any])
    except PropsError as error:
        print([problem.expected for problem in error.problems])


def what_a_class_says(op: SendStatement) -> None:
    assert_type(SendStatement.contract.name, str)
    assert_type(op.contract.errors.get("no_balance"), str | None)
    assert_type(SendStatement.async_, Async)
    assert_type(SendStatement.async_.priority, int | None)
    assert_type(Crawl.async_.expires_in, dt.timedelta | float | int | None)
    assert_type(Crawl.max_lost, int)
    assert_type(Crawl.contract.timeout_s, float | None)
    assert_type(Crawl.contract.lock, dexpy.Lock | None)
    assert_type(dexpy.Lock(template="crawl:{url}", timeout=dt.timedelta(seconds=2)).timeout_s, float | None)
    assert_type(dexpy.Concurrency(2, "url", on_conflict="discard").limit, int)
    print(dexpy.Lock(lambda op: op.url, timeout=None), dexpy.Concurrency(1, lambda op: op.url, group="web"))


class Ship(Operation):
    order: int

    def perform(self) -> str:
        label = self.step(self.print_label)
        assert_type(label, bytes)
        assert_type(self.step(self.book, label, by="air"), int)
        for number in self.each("numbers", [1, 2], batch=10):
            assert_type(number, int)
        for index in self.each("range", range(3)):
            assert_type(index, int)
        for customer in self.each("customers", select(Customer)):
            assert_type(customer, Customer)
        for line in self.each("lines", self.lines_after):
            assert_type(line, str)
        self.report_progress(1, 2.5, "half")
        return label.decode()

    def print_label(self) -> bytes:
        return b""

    def book(self, label: bytes, *, by: str) -> int:
        return len(label) + len(by)

    def lines_after(self, cursor: int | None) -> Iterator[tuple[int, str]]:
        yield (cursor or 0) + 1, "line"


def steps_and_progress(ticket: Ticket[str]) -> None:
    assert_type(records.steps("op_1"), list[records.KeptStep])
    assert_type(ticket.retry(from_start=True), Ticket[str])
    if ticket.progress is not None:
        assert_type(ticket.progress.fraction, float | None)
        assert_type(ticket.progress.at, dt.datetime)


def extensions() -> None:
    register_type(complex, to_json=lambda value: [value.real, value.imag], from_json=lambda data: complex(*data))
    register_model_loader(CardError, load=lambda model, keys: {key: model(key) for key in keys}, key=str)


class OfTenant(Operation):
    """Takes ambient values, and has a step of its own."""

    tenant: str = prop(context="current_tenant", default=...)
    locale: str = prop(context=True, default="en")
    pipeline = (
        dexpy.Insert(dexpy.Middleware("timed", lambda call, proceed: proceed(call)), after="trace"),
        dexpy.Remove("result"),
    )

    def perform(self) -> str:
        return self.tenant


def timed(call: dexpy.Call, proceed: Callable[[dexpy.Call], Ok[Any] | Err]) -> Ok[Any] | Err:
    assert_type(call.id, str)
    assert_type(call.session, Session)
    outcome = proceed(call)
    return Ok(outcome.value) if isinstance(outcome, Ok) else outcome


def what_is_around() -> None:
    with dexpy.context(current_tenant="acme", locale=dexpy.Propagate("de")):
        assert_type(OfTenant().call(), str)
        assert_type(OfTenant(locale="fr").tenant, str)
        print(dexpy.current_context()["locale"])
    assert_type(dexpy.Middleware("timed", timed, in_dry_run=True).name, str)


def what_would_happen() -> None:
    report = OfTenant.explain(locale="de")
    assert_type(report, dexpy.Explanation)
    assert_type(report.callable, bool)
    assert_type(report.pipeline["once"], bool)
    assert_type(report.guards["suspended"]["status"], str)
    assert_type(report.to_dict(), dict[str, Any])
    print(report.background["queue"] if report.background is not None else "")


def what_is_published() -> None:
    assert_type(OfTenant.contract.to_dict(), dict[str, Any])
    assert_type(OfTenant.contract.to_json_schema("full"), dict[str, Any])
    assert_type(dexpy.export("json_schema"), dict[str, dict[str, Any]])


def what_came_of_it() -> None:
    tree = dexpy.records.tree("req-1")
    assert_type(tree, dexpy.records.Tree)
    for node in tree.walk():
        assert_type(node.children, tuple[dexpy.records.Node, ...])
        assert_type(node.seconds, float | None)


class ChargeOnce(Operation):
    """Keys by props, and one of a call."""

    order: int
    once = dexpy.Once("order", expires_in=dt.timedelta(days=1), params="ignore", wait=2)
    unique = dexpy.Unique("order", until="started", on_conflict="replace")

    def perform(self) -> int:
        return self.order


class ChargeAnew(ChargeOnce):
    """A subclass takes both back."""

    once = dexpy.Once.never()
    unique = dexpy.Unique.never()


class KeyedByFunction(ChargeOnce):
    """Keys by functions."""

    once = dexpy.Once(lambda op: f"order-{op.order}")
    unique = dexpy.Unique(lambda op: op.order % 4, for_=60)


def keys_of_calls(op: ChargeOnce, download: Download) -> None:
    assert_type(op.once("key"), ChargeOnce)
    assert_type(op.once("key").call(), int)
    assert_type(op.once(None).safe.call(), Ok[int] | Err)
    assert_type(op.once("key").async_(idempotence_token="t").call(), Ticket[int])
    assert_type(download.once("key").call(), bytes)
    assert_type(ChargeOnce.once, dexpy.Once)
    assert_type(ChargeOnce.clear_once(order=1), bool)
    assert_type(ChargeOnce.clear_once("key"), bool)


class Client:
    """Targets of every kind."""

    @staticmethod
    @dexpy.deferrable(retry_on=(dexpy.Retry(ConnectionError),), sensitive=("token",))
    def fulfill(order_number: int, token: str = "") -> str:
        """A staticmethod."""
        return f"{order_number} {token}"

    @classmethod
    @dexpy.deferrable
    def cancel(cls, order_number: int) -> bool:
        """A classmethod."""
        return order_number > 0


@dexpy.deferrable(queue="orders", encrypted=("url",), handle_error=print)
async def fetch(url: str) -> bytes:
    """A coroutine function."""
    return url.encode()


def calls_for_later(session: Session, moment: dt.datetime) -> None:
    assert_type(Client.fulfill(1), str)
    assert_type(dexpy.defer(Client.fulfill, order_number=1, token="t"), Ticket[str])
    assert_type(dexpy.defer(Client.fulfill, 1), Ticket[str])
    assert_type(dexpy.defer(Client.cancel, order_number=1, idempotence_token="a"), Ticket[bool])
    assert_type(dexpy.defer(Client.fulfill, order_number=1, session=session, at=moment), Ticket[str])
    assert_type(dexpy.defer(fetch, url="x"), Ticket[bytes])
    assert_type(dexpy.defer(fetch, url="x", queue="slow"), Ticket[bytes])
    assert_type(dexpy.defer.with_options(priority=3)(Client.fulfill, order_number=1), Ticket[str])
    assert_type(dexpy.defer.with_options(session=session)(fetch, "x").result(3), bytes)
    assert_type(dexpy.defer(fetch, url="x").perform(), bool)
    dexpy.records.where(target=Client, method="fulfill")


class Paid(Operation):
    """Encrypted params and results."""

    encrypt = True
    card: str = prop(encrypted="vault")

    def perform(self) -> str:
        return self.card


class Rot13:
    """An encryptor."""

    def encrypt(self, data: bytes) -> bytes:
        """Any two methods of this form."""
        return data

    def decrypt(self, data: bytes) -> bytes:
        """And back."""
        return data


def encryptors() -> None:
    encryptor: dexpy.Encryptor = Rot13()
    dexpy.configure(encryptors={"default": dexpy.FernetEncryptor("k1", b"k2"), "vault": encryptor})
    dexpy.configure(encryption_keys=["k1", "k2"])


class SyncInventory(Operation):
    """Recurs, with a schedule that is short for a task."""

    shop: int = 1
    schedule = dexpy.Every("15 minutes")

    def perform(self) -> int:
        assert_type(self.scheduled_for, dt.datetime | None)
        assert_type(self.previous_scheduled_for, dt.datetime | None)
        return self.shop


class SyncShops(Operation):
    """Recurs, with several tasks."""

    shop: int
    schedule = (
        dexpy.Recurring(dexpy.Every("hour"), key="shop 1", props={"shop": 1}, grace=dt.timedelta(minutes=1)),
        dexpy.Recurring(dexpy.Cron("0 3 * * *"), key="shop 2", props={"shop": 2}, missed="latest", overlap="skip"),
    )

    def perform(self) -> None: ...


def recurring_tasks() -> None:
    task = dexpy.recurring.add("shop 7", SyncShops(shop=7), dexpy.Every("day at 3am"), times=3)
    assert_type(task, dexpy.recurring.RecurringTask)
    assert_type(dexpy.recurring.edit("shop 7", queue=None, jitter=60).next_at, dt.datetime | None)
    assert_type(dexpy.recurring.all(), list[dexpy.recurring.RecurringTask])
    assert_type(dexpy.recurring.run_now("shop 7"), Ticket[Any])
