"""Operations in a module whose annotations are text, with the model declared below them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Operation, OptRef, Ref, Refs, prop

if TYPE_CHECKING:
    from decimal import Decimal


class Rename(Operation):
    """Refers to models that are declared later."""

    page: Ref[Page]
    parent: OptRef[Page] = prop(default=None)
    others: Refs[Page] = prop(factory=list)
    aliased: PageRef = prop(default=None)
    title: str | None = None
    limit: ClassVar[int] = 3

    def perform(self) -> str:
        """Rename it."""
        self.page.title = self.title or "none"
        return self.page.title


class Invisible(Operation):
    """Has a prop of a type that only a type checker imports."""

    amount: Decimal

    def perform(self) -> None:
        """Do nothing."""


class InvisibleResult(Operation):
    """Returns a type that only a type checker imports."""

    done: ClassVar[list[str]] = []

    def perform(self) -> Decimal:
        """Record that it ran."""
        self.done.append("performed")
        return 1  # type: ignore[return-value]


class Models(DeclarativeBase):
    """The base of the models."""


class Page(Models):
    """A model below the operations that refer to it."""

    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


PageRef = OptRef[Page]
