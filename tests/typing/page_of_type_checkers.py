from collections.abc import Callable, Mapping, Set
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Async, Concurrency, Lock, Once, Operation, Recording, Ref, Reset, Retry, Unique

Cause: TypeAlias = type[Exception] | str
Answer: TypeAlias = str | type[Exception] | Callable[[Any, Any], Any]


class ShopOperation(Operation):
    """The base of all operations of the shop."""

    async_: ClassVar[Async] = Async(queue="shop")
    retry_on: ClassVar[tuple[Retry | Reset, ...]] = (Retry(ConnectionError),)
    discard_on: ClassVar[tuple[Cause | tuple[Cause, ...] | Reset, ...]] = (MemoryError,)
    rescue_from: ClassVar[Mapping[type[Exception] | tuple[type[Exception], ...], Answer]] = {TimeoutError: "slow"}
    errors: ClassVar[Set[str] | tuple[str, ...] | list[str] | Mapping[str, str]] = {"slow"}
    once: ClassVar[Once] = Once.never()
    unique: ClassVar[Unique] = Unique.never()
    lock: ClassVar[Lock | None] = None
    concurrency: ClassVar[Concurrency | None] = None
    record: ClassVar[bool | Recording] = True
    timeout: ClassVar[timedelta | float | int | None] = 60


class Reserve(ShopOperation):
    item: int
    retry_on = (Retry(TimeoutError, attempts=2), Retry(OSError))
    discard_on = ("gone", (KeyError, IndexError))
    rescue_from = {(ValueError, ArithmeticError): RuntimeError}
    errors = {"gone": "The item is gone"}
    once = Once("item")
    lock = Lock("item")
    record = Recording(result=True)
    timeout = timedelta(minutes=5)

    def perform(self) -> int:
        return self.item


assert Reserve(item=7).perform() == 7


class MailOperation(Operation):
    retry_on: tuple[Retry, ...] = (Retry(ConnectionError),)  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout: float = 60  # pyright: ignore[reportIncompatibleVariableOverride]


class SendMail(MailOperation):
    to: str
    retry_on = (Retry(TimeoutError), Retry(OSError))

    def perform(self) -> str:
        return self.to


assert [rule.cause for rule in SendMail.contract.rules] == [ConnectionError, TimeoutError, OSError]


class Model(DeclarativeBase): ...


class User(Model):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class UserOperation(Operation):
    user: Ref[User]


class Greet(UserOperation):
    def perform(self) -> str:
        return self.user.name
