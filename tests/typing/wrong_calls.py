"""One mistake for each promise: every line marked ``# wrong:`` is an error in both checkers, and no other line is."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import dexpy
from dexpy import Async, Err, Ok, Operation, OptRef, Recording, Ref, Refs, Retry, Ticket, around, guard, prop, records


class Customer:
    """A model."""

    mail: str


class Send(Operation):
    """Everything that can be got wrong."""

    customer: Ref[Customer]
    month: dt.date
    referrer: OptRef[Customer] = prop(default=None)
    friends: Refs[Customer] = prop(factory=list)
    limit: Decimal = Decimal(1)
    name: str | None = None

    @guard("The customer must be active")
    def suspended(self) -> bool:
        return not self.customer.mail

    def perform(self) -> int:
        return len(self.customer.email)  # wrong: the model has no such attribute


class Download(Operation):
    """An ``async def perform``."""

    async def perform(self) -> bytes:
        return b""


class Misdeclared(Operation):
    """Policies of the wrong kind."""

    count: int = "one"  # wrong: the default is of another type
    async_ = Async(que="mailers")  # wrong: Async has no such option
    retry_on = Retry(OSError)  # wrong: not a tuple
    discard_on = (KeyboardInterrupt,)  # wrong: no Exception
    rescue_from = {"card_declined": OSError}  # wrong: the other way round
    errors = {"gone": 404}  # wrong: a description is text
    async_.queue = "mailers"  # wrong: policies are frozen
    record = "params"  # wrong: neither bool nor Recording
    timeout = "30s"  # wrong: seconds or a timedelta
    max_lost = "3"  # wrong: a number

    def perform(self) -> str:
        return self.count  # wrong: not what it says it returns


class Named(Operation, nam="statements.send"):  # wrong: no such class keyword
    """A keyword that does not exist."""


class Bare(Operation):
    """Collections that are none."""

    discard_on = "gone"  # wrong: a tuple of codes
    errors = "gone"  # wrong: a set of codes


class Inherited(Send):
    """A subclass that reads what its base declares."""

    def wrong(self) -> None:
        self.customer.email  # wrong: the model has no such attribute


Inherited(customer=1, month=dt.date(2026, 1, 1)).customer = 2  # wrong: props cannot be assigned to

around()(Send.suspended)  # wrong: around is written without parentheses
guard(Send.suspended)  # wrong: guard is written with them
Retry(OSError, wait="polynomially")  # wrong: not a word for a wait
Retry(OSError, attempts="three")  # wrong: attempts is a number
Recording(parms=True)  # wrong: Recording has no such option
prop(greater=1)  # wrong: prop has no such option

jan = dt.date(2026, 1, 1)
op = Send(customer=3, month=jan)
Send(customer=1.5, month=jan)  # wrong for pyright: no key
Send(customer=None, month=jan)  # wrong for pyright: Ref takes no None
Send(customer=Download(), month=jan)  # wrong for pyright: another class than the model
Send(customer=1, month=jan, referrer=b"")  # wrong for pyright: no key for an OptRef
Send(customer=1, month=jan, friends=3)  # wrong for pyright: Refs take a list
Send(customer=1, month=jan, friends=[None])  # wrong for pyright: not of Nones
Send(customer=1, month="2026-01-01")  # wrong: the prop's type
Send(customer=1)  # wrong: a prop is missing
Send(customer=1, month=jan, nmae="x")  # wrong: no such prop
Send(1, jan)  # wrong: props are given by name
op.name = "y"  # wrong: props cannot be assigned to
op.limit = Decimal(2)  # wrong: nor those with a default
op.nmae  # wrong: no such prop

text: str = op.call()  # wrong: it returns int
op.safe.call().value  # wrong: it may be an Err
op.safe.async_()  # wrong: safe has no async_
op.customer.email  # wrong: the model has no such attribute
op.referrer.mail  # wrong: it may be None
op.friends.mail  # wrong: it is a list
threat: str = op.suspended()  # wrong: a guard keeps its type
op.suspended(1)  # wrong: and its parameters

op.async_(que="x")  # wrong: no such option
op.async_("mailers")  # wrong: options are given by name
op.async_(queue=3)  # wrong: a queue is a name or a function
op.async_(in_="5")  # wrong: a delay is a number or a timedelta
op.async_(at=jan)  # wrong: a date is no moment
op.async_(priority=1.5)  # wrong: a priority is an int
op.async_(expires_in="1h")  # wrong: seconds or a timedelta
op.async_(expires=60)  # wrong: the option is expires_in
Async(expires_in="1h")  # wrong: here too
op.check_cancelled(True)  # wrong: it takes nothing
op.check_canceled()  # wrong: with two l
records.prune(older_than=30)  # wrong: a timedelta
op.async_.call()  # wrong: async_ needs parentheses
op.async_().safe.call()  # wrong: the ticket tells
ticket = op.async_().call()
other: Ticket[str] = ticket  # wrong: another result
answer: str = ticket.result(3)  # wrong: the result is an int
ticket.result()  # wrong: a wait has a timeout
ticket.result("3")  # wrong: in seconds
ticket.wait(3).value  # wrong: it may be an Err or None
ticket.status = "done"  # wrong: a ticket is not for writing
data: str = Download().call()  # wrong: it returns bytes

records.where(queue=7)  # wrong: the name of a queue
records.where(since=3)  # wrong: a moment or a timedelta
records.failed().frist()  # wrong: no such method
late: str = records.get("op_1").duration  # wrong: a timedelta or None
dexpy.configure(databse="sqlite://")  # wrong: no such setting
dexpy.Tiket.get("op_1")  # wrong: no such name


async def use() -> None:
    await op.call()  # wrong: call is for synchronous code
    result: int = op.acall()  # wrong: acall is awaited
    body: str = await Download().acall()  # wrong: it gives bytes
    name: bytes = await op.async_().call().aresult(3)  # wrong: it gives an int
    print(result, body, name)


def absent() -> None:
    from dexpy import Retri  # wrong: no such name


def unmatched(outcome: Ok[int] | Err) -> int:
    match outcome:
        case Ok(value):
            return value.upper()  # wrong: the value is an int
        case Err(code):
            return code  # wrong: the code is a str


facts: dict[str, Any] = {"text": text, "threat": threat, "answer": answer, "data": data, "late": late, "other": other}


class Ambient(Operation):
    tenant: str = prop(context="current_tenant")
    locale: str = prop(context="locale", default=...)

    def perform(self) -> None: ...


class Misplaced(Operation):
    pipeline = (dexpy.Remove(1),)  # wrong: a name
    tenant: str = prop(context=1)  # wrong: a name, or True

    def perform(self) -> None: ...


def what_is_around() -> None:
    Ambient()  # wrong: without default=... it has to be given
    Ambient(tenant="a", locale=1)  # wrong: the type of the prop
    dexpy.Insert("metrics", after="trace")  # wrong: a Middleware
    dexpy.Insert(dexpy.Middleware("x", lambda call: None), after="trace")  # wrong: a step gets the call and proceed
    dexpy.export("yaml")  # wrong: dict or json_schema
    Ambient.contract.to_json_schema("param")  # wrong: no such section


class Climb(Operation):
    def perform(self) -> int:
        self.step(self.up, "high")  # wrong: the type of an argument
        height: str = self.step(self.up, 1)  # wrong: it returns an int
        self.each("items", {1, 2})  # wrong: a set has no order
        self.report_progress("half")  # wrong: a number
        return len(height)

    def up(self, by: int) -> int:
        return by


class Keyed(Operation):
    order: int
    once = "order"  # wrong: a policy
    unique = dexpy.Unique("order", until="done")  # wrong: no such scope

    def perform(self) -> int:
        return self.order


def keys(op: Download) -> None:
    dexpy.Once("order", params="look")  # wrong: check or ignore
    op.once(7)  # wrong: a text, or None
    dexpy.Lock(7)  # wrong: a template or a function
    dexpy.Lock(backend="etcd")  # wrong: database or redis
    dexpy.Concurrency("2")  # wrong: an int
    dexpy.Concurrency(1, on_conflict="skip")  # wrong: wait or discard
    op.once("key").call().upper().day  # wrong: bytes have no day
    op.async_(idempotence_token=7)  # wrong: a text


@dexpy.deferrable
def fulfill(order_number: int) -> str:
    return str(order_number)


class HalfAnEncryptor:
    def encrypt(self, data: bytes) -> bytes:
        return data


def later() -> None:
    dexpy.defer(fulfill, order_number="1")  # wrong: the type of an argument
    dexpy.defer(fulfill, order_numbr=1)  # wrong: no such parameter
    dexpy.defer(fulfill)  # wrong: an argument is missing
    dexpy.defer.with_options(queue="orders")(fulfill, order_number="1")  # wrong: beside options too
    dexpy.defer.with_options(que="orders")  # wrong: no such option
    dexpy.defer(fulfill, order_number=1, at="now")  # wrong: a moment
    dexpy.defer(fulfill, 1).result(3).day  # wrong: a str has no day
    dexpy.configure(encryptors={"default": HalfAnEncryptor()})  # wrong: it cannot decrypt
