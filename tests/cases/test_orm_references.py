"""References to rows of SQLAlchemy models."""

from __future__ import annotations

import datetime as dt
import enum
import threading
import time
import uuid
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    mapped_column,
    registry,
    relationship,
    sessionmaker,
    with_loader_criteria,
)

import dexpy
from dexpy import Once, Operation, OptRef, PropsError, Ref, Refs, prop
from dexpy.declaration import row_loading
from dexpy.errors import DeclarationError, RefNotFound
from dexpy.runtime import install
from dexpy.testing import Isolated


class Guid(sa.TypeDecorator[uuid.UUID]):
    """A UUID that is stored as 32 digits, as in applications from before SQLAlchemy's `Uuid`."""

    impl = sa.CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.hex

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else uuid.UUID(value)


class Upper(sa.TypeDecorator[str]):
    """A text that is stored in upper case."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.strip().upper()


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "case_docs"
    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True)


class Page(Base):
    __tablename__ = "case_pages"
    doc: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


mapping = registry()
leaves = sa.Table("case_leaves", Base.metadata, sa.Column("id", Guid, primary_key=True))


class Leaf:
    """A model that is mapped without annotations."""

    id: Any

    def __init__(self, id: uuid.UUID) -> None:
        self.id = id


mapping.map_imperatively(Leaf, leaves)


class Coupon(Base):
    __tablename__ = "case_coupons"
    code: Mapped[str] = mapped_column(
        sa.String(20, collation="NOCASE").with_variant(sa.String(20), "postgresql", "mysql", "mariadb"),
        primary_key=True,
    )


class Country(Base):
    __tablename__ = "case_countries"
    code: Mapped[str] = mapped_column(sa.CHAR(4), primary_key=True)


class Tag(Base):
    __tablename__ = "case_tags"
    name: Mapped[str] = mapped_column(Upper, primary_key=True)


class Account(Base):
    __tablename__ = "case_accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    is_deleted: Mapped[bool] = mapped_column(default=False)


class Small(Base):
    __tablename__ = "case_smalls"
    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)


class Day(Base):
    __tablename__ = "case_days"
    day: Mapped[dt.date] = mapped_column(primary_key=True)


class Price(Base):
    __tablename__ = "case_prices"
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), primary_key=True)


class Shop(Base):
    __tablename__ = "case_shops"
    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "case_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int | None] = mapped_column(sa.ForeignKey("case_shops.id"))
    shop: Mapped[Shop | None] = relationship(lazy="joined")


class Package(Base):
    __tablename__ = "case_packages"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(sa.ForeignKey("case_shops.id"))
    shop: Mapped[Shop] = relationship(lazy="joined", innerjoin=True)
    shops: Mapped[int] = column_property(sa.select(sa.func.count(Shop.id)).scalar_subquery())


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Box(Base):
    __tablename__ = "case_boxes"
    size: Mapped[Size] = mapped_column(primary_key=True)


class Animal(Base):
    __tablename__ = "case_animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal", "with_polymorphic": "*"}


class Dog(Animal):
    __tablename__ = "case_dogs"
    id: Mapped[int] = mapped_column(sa.ForeignKey("case_animals.id"), primary_key=True)
    shop_id: Mapped[int | None] = mapped_column(sa.ForeignKey("case_shops.id"))
    shop: Mapped[Shop | None] = relationship(lazy="joined")
    __mapper_args__ = {"polymorphic_identity": "dog"}


class ReadDoc(Operation):
    doc: Ref[Doc]

    def perform(self) -> str:
        return str(self.doc.id)


class ReadDocs(Operation):
    docs: Refs[Doc]
    page: OptRef[Page] = prop(default=None)
    once = Once("docs", "page")

    def perform(self) -> list[int]:
        return [doc.id.int for doc in self.docs] + ([self.page.number] if self.page else [])


class ReadLeaf(Operation):
    leaf: Ref[Leaf]

    def perform(self) -> int:
        return int(self.leaf.id.int)


class UseCoupon(Operation):
    coupon: Ref[Coupon]

    def perform(self) -> str:
        return self.coupon.code


class UseLocked(Operation):
    coupon: Ref[Coupon] = prop(lock=True)
    other: OptRef[Coupon] = prop(default=None, lock=True)

    def perform(self) -> list[str]:
        return [self.coupon.code, *([self.other.code] if self.other else [])]


class UseCoupons(Operation):
    coupons: Refs[Coupon]

    def perform(self) -> list[str]:
        return [coupon.code for coupon in self.coupons]


class UseTags(Operation):
    tags: Refs[Tag]
    country: OptRef[Country] = prop(default=None)

    def perform(self) -> list[str]:
        return [tag.name for tag in self.tags] + ([self.country.code.strip()] if self.country else [])


class Show(Operation):
    account: Ref[Account]
    other: OptRef[Account] = prop(default=None, lock=True)
    more: Refs[Account] = prop(factory=list)

    def perform(self) -> list[int]:
        return [self.account.id, *([self.other.id] if self.other else []), *(one.id for one in self.more)]


class ShowSmall(Operation):
    small: Ref[Small]

    def perform(self) -> int:
        return self.small.id


class ShowPrice(Operation):
    price: Ref[Price]
    day: OptRef[Day] = prop(default=None)

    def perform(self) -> str:
        return str(self.price.amount)


class CountAccounts(Operation):
    accounts: Refs[Account]

    def perform(self) -> int:
        return len({account.id for account in self.accounts})


class CountPages(Operation):
    pages: Refs[Page]

    def perform(self) -> int:
        return len({page.number for page in self.pages})


class LockAccounts(Operation):
    accounts: Refs[Account] = prop(lock=True)

    def perform(self) -> int:
        time.sleep(0.05)
        return len(self.accounts)


class Pack(Operation):
    boxes: Refs[Box] = prop(lock=True)

    def perform(self) -> list[str]:
        return [box.size.value for box in self.boxes]


class Ship(Operation):
    order: Ref[Order] = prop(lock=True)

    def perform(self) -> int | None:
        hold.wait()
        return self.order.shop.id if self.order.shop else None


class Send(Operation):
    package: Ref[Package] = prop(lock=True)

    def perform(self) -> int:
        hold.wait()
        return self.package.shop.id


class Feed(Operation):
    animal: Ref[Animal] = prop(lock=True)

    def perform(self) -> str:
        hold.wait()
        return self.animal.kind


class Walk(Operation):
    dog: Ref[Dog] = prop(lock=True)

    def perform(self) -> str:
        hold.wait()
        return self.dog.kind


class Slug:
    """A model outside of SQLAlchemy."""

    def __init__(self, name: str) -> None:
        self.name = name


dexpy.register_model_loader(Slug, load=lambda _, keys: [Slug(key) for key in keys], key=lambda slug: slug.name)


class LockSlug(Operation):
    slug: Ref[Slug] = prop(lock=True)

    def perform(self) -> None: ...


class Purge(Operation):
    account: Ref[Account] = prop(execution_options={"include_deleted": True})
    auditor: OptRef[Account] = prop(default=None)

    def perform(self) -> int:
        return self.account.id


@attrs.define
class Hold:
    """Keeps a run in `perform` while the test inspects it, if `is_used`."""

    is_used: bool = False
    reached: threading.Event = attrs.field(factory=threading.Event)
    leave: threading.Event = attrs.field(factory=threading.Event)

    def wait(self) -> None:
        if self.is_used:
            self.reached.set()
            assert self.leave.wait(20)


hold = Hold()


@attrs.frozen
class Application:
    """A configured application with the tables of this file."""

    runtime: dexpy.Runtime
    engine: sa.Engine

    def add(self, *rows: Any) -> None:
        with Session(self.engine) as session, session.begin():
            session.add_all(rows)

    def run(self, operation: Operation) -> Any:
        """Enqueue an operation, perform it in this process, and return its ticket."""
        ticket = operation.async_().call()
        ticket.perform()
        return ticket.reload()


def _application(url: str, **options: Any) -> Generator[Application]:
    runtime = dexpy.configure(database=url, create_tables=True, **options)
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    hold.__init__()  # type: ignore[misc]
    yield Application(runtime, engine)
    engine.dispose()
    runtime.close()
    install(None)


@pytest.fixture
def app(tmp_path: Path) -> Generator[Application]:
    """The application on a SQLite file."""
    yield from _application(f"sqlite:///{tmp_path / 'app.db'}")


SERVERS = ("postgresql", "mariadb")


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.servers) for name in SERVERS)])
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Application]:
    """The application on each database."""
    with servers.database(request.param, tmp_path) as url:
        yield from _application(url)


@pytest.fixture(params=SERVERS)
def on_server(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Application]:
    """The application on each database that locks rows."""
    with servers.database(request.param, tmp_path) as url:
        yield from _application(url)


@pytest.fixture
def on_postgresql(tmp_path: Path) -> Generator[Application]:
    with servers.database("postgresql", tmp_path) as url:
        yield from _application(url)


# ------------------------------------------------------------- o1: a key of a column type of the application


def test_o1_a_key_of_an_application_column_type_reaches_the_worker(app: Application) -> None:
    app.add(Doc(id=uuid.UUID(int=5)))
    assert app.run(ReadDoc(doc=uuid.UUID(int=5))).result(5) == str(uuid.UUID(int=5))


def test_o1_parse_makes_the_key_of_its_text_and_refuses_other_text(app: Application) -> None:
    app.add(Doc(id=uuid.UUID(int=5)))
    assert ReadDoc.parse({"doc": str(uuid.UUID(int=5))}).call() == str(uuid.UUID(int=5))
    with pytest.raises(PropsError, match="doc"):
        ReadDoc.parse({"doc": "not a uuid"})
    with pytest.raises(PropsError, match="doc"):
        ReadDoc(doc="0" * 32)


def test_o1_composite_keys_many_references_and_keys_of_policies_have_the_declared_type(app: Application) -> None:
    ids = [uuid.UUID(int=number) for number in range(1, 4)]
    app.add(*(Doc(id=one) for one in ids), Page(doc=ids[0], number=7))
    operation = ReadDocs(docs=ids, page=(ids[0], 7))
    assert app.run(operation).result(5) == [1, 2, 3, 7]
    assert ReadDocs(docs=ids, page=(ids[0], 7)).async_().call().duplicate
    parsed = ReadDocs.parse({"docs": [str(one) for one in ids], "page": [str(ids[0]), 7]})
    assert parsed == operation
    with Session(app.engine) as session:
        instances = [session.get_one(Doc, one) for one in ids]
    assert ReadDocs(docs=instances, page=(ids[0], 7)) == operation


def test_o1_a_column_without_a_declared_type_accepts_the_usual_key_types(app: Application) -> None:
    app.add(Leaf(id=uuid.UUID(int=9)))
    assert app.run(ReadLeaf(leaf=uuid.UUID(int=9))).result(5) == 9
    with pytest.raises(PropsError, match="a value that Guid accepts"):
        ReadLeaf.parse({"leaf": "text"})
    with pytest.raises(PropsError, match="leaf"):
        ReadLeaf(leaf=1.5)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- o2: keys that the database calls equal


def test_o2_a_row_is_found_by_the_equality_of_the_database(app: Application) -> None:
    app.add(Coupon(code="SUMMER"), Coupon(code="winter"))
    assert UseCoupon(coupon="summer").call() == "SUMMER"
    assert app.run(UseCoupon(coupon="Summer")).result(5) == "SUMMER"
    assert UseLocked(coupon="summer", other="WINTER").call() == ["SUMMER", "winter"]
    assert UseCoupons(coupons=["Winter", "SUMMER", "summer", "winter"]).call() == [
        "winter",
        "SUMMER",
        "SUMMER",
        "winter",
    ]


def test_o2_a_row_that_the_database_does_not_find_is_missing(everywhere: Application) -> None:
    everywhere.add(Coupon(code="SUMMER"))
    for operation in (UseCoupon(coupon="autumn"), UseCoupons(coupons=["SUMMER", "autumn"]), UseLocked(coupon="autumn")):
        with pytest.raises(RefNotFound, match="autumn"):
            operation.call()
        assert everywhere.run(operation).failure == "discarded"


def test_o2_column_types_that_normalise_and_padded_columns_find_their_rows(everywhere: Application) -> None:
    everywhere.add(Tag(name="red"), Tag(name="blue"), Country(code="de"))
    operation = UseTags(tags=[" Red", "RED", "blue "], country="de")
    assert operation.call() == ["RED", "RED", "BLUE", "de"]
    assert everywhere.run(operation).result(5) == ["RED", "RED", "BLUE", "de"]


@pytest.mark.servers
def test_o2_the_default_collation_of_mariadb_ignores_case(tmp_path: Path) -> None:
    with servers.database("mariadb", tmp_path) as url:
        for app in _application(url):
            app.add(Coupon(code="SUMMER"), Coupon(code="winter"))
            assert UseCoupons(coupons=["summer", "WINTER", "SUMMER"]).call() == ["SUMMER", "winter", "SUMMER"]
            assert UseLocked(coupon="sUMMER", other="Winter").call() == ["SUMMER", "winter"]


# ---------------------------------------------- o3: a lock on a row whose model loads a relation eagerly


def is_locked(app: Application, model: Any, key: Any) -> bool:
    """Whether another session holds a lock on a row."""
    table = model.__table__
    query = sa.select(table).where(table.c.id == key).with_for_update(skip_locked=True)
    with app.engine.connect() as connection:
        return connection.execute(query).first() is None


@pytest.mark.servers
@pytest.mark.parametrize(
    ("make", "rows", "locked", "free"),
    [
        (lambda: Ship(order=1), lambda: [Order(id=1)], [(Order, 1)], []),
        (lambda: Ship(order=1), lambda: [Shop(id=3), Order(id=1, shop_id=3)], [(Order, 1)], [(Shop, 3)]),
        (lambda: Send(package=1), lambda: [Shop(id=3), Package(id=1, shop_id=3)], [(Package, 1)], [(Shop, 3)]),
        (lambda: Feed(animal=1), lambda: [Animal(id=1, kind="animal")], [(Animal, 1)], []),
        (lambda: Walk(dog=1), lambda: [Shop(id=3), Dog(id=1, shop_id=3)], [(Animal, 1), (Dog, 1)], [(Shop, 3)]),
    ],
    ids=["nothing joined", "outer join", "inner join", "subclasses", "joined inheritance"],
)
def test_o3_only_the_referenced_row_is_locked(
    on_server: Application,
    make: Callable[[], Operation],
    rows: Callable[[], list[Any]],
    locked: list[tuple[Any, int]],
    free: list[tuple[Any, int]],
) -> None:
    for row in rows():
        on_server.add(row)
    hold.is_used = True
    thread = threading.Thread(target=make().call)
    thread.start()
    try:
        assert hold.reached.wait(20)
        assert [is_locked(on_server, model, key) for model, key in locked] == [True] * len(locked)
        assert [is_locked(on_server, model, key) for model, key in free] == [False] * len(free)
    finally:
        hold.leave.set()
        thread.join(20)


def test_o3_a_key_of_an_enumeration_is_locked(everywhere: Application) -> None:
    everywhere.add(Box(size=Size.SMALL), Box(size=Size.LARGE))
    assert Pack(boxes=[Size.LARGE, Size.SMALL]).call() == ["large", "small"]


def test_o3_eagerly_loaded_relationships_are_loaded(everywhere: Application) -> None:
    everywhere.add(Shop(id=3))
    everywhere.add(Order(id=1, shop_id=3), Order(id=2), Package(id=1, shop_id=3), Dog(id=1, shop_id=3))
    assert [Ship(order=1).call(), Ship(order=2).call(), Send(package=1).call()] == [3, None, 3]
    assert [Feed(animal=1).call(), Walk(dog=1).call()] == ["dog", "dog"]


# --------------------------------------------------------------------- o4: many references


def test_o4_references_are_split_for_the_limits_of_a_statement(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_loading, "MAX_PARAMETERS", 10)
    app.add(*(Account(id=number) for number in range(1, 26)))
    app.add(*(Page(doc=uuid.UUID(int=1), number=number) for number in range(12)))
    assert CountAccounts(accounts=list(range(1, 26))).call() == 25
    assert LockAccounts(accounts=list(range(25, 0, -1))).call() == 25
    assert CountPages(pages=[(uuid.UUID(int=1), number) for number in range(12)]).call() == 12
    monkeypatch.setattr(row_loading, "MAX_CHARACTERS", 8)
    assert CountAccounts(accounts=list(range(1, 26))).call() == 25
    with pytest.raises(RefNotFound, match="26"):
        CountAccounts(accounts=list(range(1, 27))).call()


@pytest.mark.servers
def test_o4_more_references_than_a_statement_has_parameters_are_loaded(everywhere: Application) -> None:
    count = 70_000
    with everywhere.engine.begin() as connection:
        connection.execute(sa.insert(Account), [{"id": number, "is_deleted": False} for number in range(1, count + 1)])
    assert CountAccounts(accounts=list(range(1, count + 1))).call() == count


@pytest.mark.servers
def test_o4_batches_are_locked_in_one_order_for_any_order_of_the_references(
    on_server: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_loading, "MAX_PARAMETERS", 3)
    on_server.add(*(Account(id=number) for number in range(1, 11)))
    counts: list[int] = []
    errors: list[Exception] = []

    def run(keys: list[int]) -> None:
        try:
            counts.extend(LockAccounts(accounts=keys).call() for _ in range(5))
        except Exception as error:
            errors.append(error)

    orders = [list(range(1, 11)), list(range(10, 0, -1)), list(range(4, 11)), list(range(8, 0, -1))]
    threads = [threading.Thread(target=run, args=(keys,)) for keys in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(counts) == [7] * 5 + [8] * 5 + [10] * 10


# -------------------------------------------------------------------------- o5: a key that no row can have


@pytest.mark.parametrize("key", [2**31, -(2**31) - 1, 2**63, 2**64, 2**70, -(2**70), 10**100])
def test_o5_a_number_that_is_too_large_for_the_column_raises_ref_not_found(everywhere: Application, key: int) -> None:
    everywhere.add(Account(id=1), Account(id=2))
    for operation in (Show(account=key), Show(account=1, other=key), Show(account=1, more=[2, key])):
        with pytest.raises(RefNotFound):
            operation.call()
        assert everywhere.run(operation).failure == "discarded"
    with pytest.raises(RefNotFound):
        Show.parse({"account": key}).call()
    with pytest.raises(RefNotFound):
        ShowSmall(small=key).call()
    # The transaction of a caller stays open.
    with Session(everywhere.engine) as session, dexpy.session(session):
        with pytest.raises(RefNotFound):
            Show(account=key).call()
        assert session.scalar(sa.select(sa.func.count()).select_from(Account)) == 2


@pytest.mark.parametrize("key", ["a\0b", "a\ud800", "x" * 1000, "\U0001f600"])
def test_o5_text_that_no_column_can_hold_raises_ref_not_found(everywhere: Application, key: str) -> None:
    everywhere.add(Coupon(code="SUMMER"))
    for operation in (
        UseCoupon(coupon=key),
        UseCoupons(coupons=["SUMMER", key]),
        UseLocked(coupon="SUMMER", other=key),
    ):
        with pytest.raises(RefNotFound):
            operation.call()


@pytest.mark.parametrize("key", [Decimal("1E+30"), Decimal("NaN"), Decimal("0.001"), Decimal("Infinity")])
def test_o5_a_decimal_beyond_the_column_raises_ref_not_found(everywhere: Application, key: Decimal) -> None:
    everywhere.add(Price(amount=Decimal("1.50")))
    assert ShowPrice(price=Decimal("1.5")).call() == "1.50"  # type: ignore[arg-type]
    with pytest.raises(RefNotFound):
        ShowPrice(price=key).call()  # type: ignore[arg-type]


def test_o5_dates_at_the_limits_of_the_calendar_raise_ref_not_found(everywhere: Application) -> None:
    everywhere.add(Price(amount=Decimal("1.50")))
    for day in (dt.date.min, dt.date.max):
        with pytest.raises(RefNotFound):
            ShowPrice(price=Decimal("1.5"), day=day).call()  # type: ignore[arg-type]


# ------------------------------------------------------------------------ o6: a row that the session hides


class HidingSession(Session):
    """Hides rows that are marked as deleted."""


@sa.event.listens_for(HidingSession, "do_orm_execute")
def _hide_deleted(state: Any) -> None:
    if not state.execution_options.get("include_deleted", False):
        criteria = with_loader_criteria(Account, Account.is_deleted == sa.false())
        state.statement = state.statement.options(criteria)


@pytest.fixture
def hiding(tmp_path: Path) -> Generator[Application]:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    engine = sa.create_engine(url)
    yield from _application(url, session_factory=sessionmaker(engine, class_=HidingSession))
    engine.dispose()


def test_o6_execution_options_of_a_prop_load_a_row_that_the_session_filters_out(hiding: Application) -> None:
    hiding.add(Account(id=1, is_deleted=True), Account(id=2))
    assert Purge(account=1, auditor=2).call() == 1
    assert hiding.run(Purge(account=1)).result(5) == 1
    with pytest.raises(RefNotFound, match="auditor"):
        Purge(account=1, auditor=1).call()


def test_o6_execution_options_are_checked_at_the_declaration(isolated_runtime: Isolated) -> None:
    with pytest.raises(DeclarationError, match=r"prop\(execution_options=3\): expected a mapping"):
        prop(execution_options=3)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="hashable"):
        prop(execution_options={"a": []})  # type: ignore[dict-item]

    class Wrong(Operation):
        amount: int = prop(execution_options={"a": 1})

        def perform(self) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong\.amount: prop\(execution_options=\) is only for references"):
        Wrong(amount=1)


def test_o6_execution_options_of_other_kinds_of_models_are_refused(isolated_runtime: Isolated) -> None:
    with pytest.raises(DeclarationError, match=r"Ref\[Slug\]: prop\(lock=\) is only for mapped classes of SQLAlchemy"):
        LockSlug(slug="a").call()


def test_o5_a_number_too_long_to_write_raises_ref_not_found(app: Application) -> None:
    with pytest.raises(RefNotFound, match="<int>"):
        CountAccounts(accounts=[10**5000]).call()
