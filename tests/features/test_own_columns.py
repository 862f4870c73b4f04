"""Columns of the application in the table of records: filled at the enqueue, queryable, created with the tables."""

from __future__ import annotations

from collections.abc import Generator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import servers
import sqlalchemy as sa
from click.testing import CliRunner
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

import dexpy
from dexpy import ConfigurationError, Once, Operation, RecordColumn, Recording, enqueue_all, prop, records
from dexpy.cli.main import main
from dexpy.database import schema
from dexpy.database.schema_sql import DIALECTS
from dexpy.database.tables import STANDARD_COLUMNS
from dexpy.errors import OptionsError, SchemaMissing
from dexpy.runtime import current_runtime, install
from dexpy.testing import isolated

SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]
COLUMNS = (
    RecordColumn("tenant", str, length=10, index=True),
    RecordColumn("order", int, prop="order_id"),
    RecordColumn("urgent", bool),
    RecordColumn("day", date),
    RecordColumn("due", datetime),
    RecordColumn("payer", UUID, index=True),
    RecordColumn("region", str, prop="area", context="current_region"),
)
CUSTOMER = UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2026, 11, 30, 12, 0, 0, 250000, tzinfo=timezone.utc)


class Area(Enum):
    NORTH = "north"


class Bill(Operation):
    tenant: str
    order_id: int = 0

    def perform(self) -> int:
        return self.order_id


class BillOnce(Operation):
    tenant: str
    once = Once("tenant")

    def perform(self) -> None: ...


class BillDirectly(Operation):
    tenant: str
    record = Recording(params=False)

    def perform(self) -> None: ...


class BillFully(Operation):
    tenant: str
    order_id: int
    urgent: bool
    day: date
    due: datetime
    payer: UUID
    area: Area
    amount: Decimal = Decimal(1)

    def perform(self) -> None: ...


class BillSecretly(Operation):
    tenant: str = prop(sensitive=True)

    def perform(self) -> None: ...


class Encrypted(Operation):
    tenant: str = prop(encrypted=True)

    def perform(self) -> None: ...


class WithToken(Operation):
    token: str = prop(sensitive=True, context="current_token", default="")

    def perform(self) -> None: ...


class Anything(Operation):
    tenant: Any

    def perform(self) -> None: ...


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: Any, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url
        close()


def close() -> None:
    runtime = install(None)
    if runtime is not None:
        runtime.close()


def configure(url: str, columns: Any = COLUMNS, **options: Any) -> None:
    close()
    dexpy.configure(database=url, record_columns=columns, **{"create_tables": True, **options})


FULL = {"tenant": "acme", "order_id": 2**40, "urgent": True, "day": date(2026, 1, 2), "due": MOMENT}


def test_values_of_each_type_are_stored_queried_and_selected(url: str) -> None:
    configure(url)
    BillFully(**FULL, payer=CUSTOMER, area=Area.NORTH).async_().call()
    Bill(tenant="other").async_().call()

    (record,) = records.where(tenant="acme")

    expected = {
        "tenant": "acme", "order": 2**40, "urgent": True, "day": date(2026, 1, 2), "due": MOMENT,
        "payer": CUSTOMER, "region": "north",
    }  # fmt: skip
    assert record.columns == expected
    assert record.tenant == "acme"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    for name, value in expected.items():
        assert [found.id for found in records.where(**{name: value})] == [record.id], name
    assert records.where(tenant=["acme", "other"], order=[0, 2**40]).count() == 2
    assert records.where(payer=None).count() == 1
    assert records.where(due=MOMENT.astimezone(timezone(timedelta(hours=2)))).count() == 1
    with current_runtime().store.database.connect() as connection:
        query = sa.select(records.table.c.tenant, records.table.c.payer).order_by(records.table.c.tenant)
        assert connection.execute(query).all() == [("acme", CUSTOMER), ("other", None)]


def test_every_kind_of_call_fills_the_columns(url: str) -> None:
    configure(url)
    engine = sa.create_engine(url)
    with dexpy.context(current_region="south"):
        Bill(tenant="sync").call()
        BillOnce(tenant="once").call()
        BillOnce(tenant="keyed").async_().call()
        Bill(tenant="async").async_().call()
        enqueue_all([Bill(tenant="all-1"), Bill(tenant="all-2"), BillOnce(tenant="all-3")])
        with Session(engine) as session, session.begin():
            Bill(tenant="session").async_(session=session).call()
    engine.dispose()

    tenants = sorted(str(record.columns["tenant"]) for record in records.where(region="south"))

    assert tenants == ["all-1", "all-2", "all-3", "async", "keyed", "once", "session", "sync"]


def test_a_run_whose_params_are_in_its_message_has_the_columns(tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}")
    with isolated() as test:
        with dexpy.context(current_region=dexpy.Propagate("south")):
            BillDirectly(tenant="acme").async_().call()
        test.run_pending()
        assert records.where(tenant="acme", region="south").count() == 1


def test_a_callback_of_a_batch_has_the_columns(tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}")
    callback = BillFully(**FULL, payer=CUSTOMER, area=Area.NORTH)
    with isolated() as test:
        with dexpy.batch(on_finish=callback):
            Bill(tenant="inside").async_().call()
        test.run_pending()
        test.run_pending()

        (record,) = records.where(operation=BillFully)
        assert (record.columns["due"], record.columns["payer"], record.columns["order"]) == (MOMENT, CUSTOMER, 2**40)


WRONG = {
    "too long": "x" * 11,
    "NUL": "a\0",
    "surrogate": "\ud800",
    "int": 5,
    "list": ["a"],
    "bool": True,
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_value_that_does_not_fit_is_refused_and_nothing_is_stored(value: Any, tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}")
    if isinstance(value, str) and not value.isalpha():
        value = {"text": "not text"}
    expected = r"Anything: column 'tenant': expected a str of at most 10 characters, got .*\. Nothing was stored\."
    with pytest.raises(OptionsError, match=expected):
        Anything(tenant=value).async_().call()
    with pytest.raises(OptionsError, match=expected):
        enqueue_all([Bill(tenant="fits"), Anything(tenant=value)])
    with pytest.raises(OptionsError, match=expected):
        Anything(tenant=value).call()
    assert records.all().count() == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [("order", 2**63), ("order", "5"), ("day", "2026-13-01"), ("due", datetime(2026, 1, 1)), ("payer", "x"), ("urgent", 1)],  # noqa: E501
)  # fmt: skip
def test_a_context_value_that_does_not_fit_is_refused(column: str, value: Any, tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}")
    with dexpy.context(**{column: value}), pytest.raises(OptionsError, match=f"column '{column}': expected an? "):
        BillOnce(tenant="acme").call()
    assert records.all().count() == 0


def test_a_sensitive_prop_fills_a_column_only_if_allowed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    configure(url)
    with pytest.raises(
        OptionsError, match=r"'tenant' would store the value of BillSecretly\.tenant, which is sensitive"
    ) as refused:
        BillSecretly(tenant="hidden").async_().call()
    assert "hidden" not in str(refused.value)

    configure(url, [RecordColumn("tenant", length=10, sensitive=True)])
    BillSecretly(tenant="allowed").async_().call()
    with pytest.raises(OptionsError) as refused:
        BillSecretly(tenant="hidden-and-long").async_().call()

    assert records.where(tenant="allowed").count() == 1
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("name", ["id", "params", "trace", "ticket", "retry", "columns", "since", "progress"])
def test_a_name_that_records_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"RecordColumn\\('{name}'\\): records already have this name"):
        dexpy.configure(database="sqlite:///app.db", record_columns=[RecordColumn(name)])


@pytest.mark.parametrize(
    "arguments",
    [
        ("Tenant",),
        ("",),
        ("a b",),
        (5,),
        ("a" * 42,),
        ("price", Decimal),
        ("name", str, {"length": 0}),
        ("name", str, {"length": 1025}),
        ("name", str, {"length": 769, "index": True}),
        ("name", str, {"prop": 5}),
    ],
)
def test_an_invalid_column_is_refused(arguments: Any) -> None:
    options = arguments[-1] if isinstance(arguments[-1], dict) else {}
    with pytest.raises(ConfigurationError, match="RecordColumn"):
        RecordColumn(*(value for value in arguments if value is not options), **options)


def test_filters_of_unknown_names_and_other_types_are_refused(tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}")
    with pytest.raises(OptionsError, match=r"where\(tenent=\): unknown filter; .* Did you mean 'tenant'\?"):
        records.where(tenent="acme")
    with pytest.raises(OptionsError, match=r"where\(tenant=\): expected a str of at most 10 characters"):
        records.where(tenant=5)


def test_a_missing_column_is_an_error_until_it_is_added(url: str) -> None:
    configure(url, ())
    Bill(tenant="before").async_().call()
    configure(url, COLUMNS[:2], create_tables=False)

    with pytest.raises(SchemaMissing) as missing:
        Bill(tenant="acme").async_().call()

    assert "table operation_records lacks tenant, order" in str(missing.value)
    assert "Run: dexpy db upgrade" in str(missing.value)
    statements = str(missing.value).partition("Or add it with: ")[2].split("; ")
    assert len(statements) == 3, "two columns and an index"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.rstrip(";."))
    engine.dispose()
    Bill(tenant="acme", order_id=5).async_().call()
    assert records.where(tenant="acme", order=5).count() == 1
    assert records.where(tenant=None).count() == 1


def test_upgrade_adds_missing_columns_and_sql_prints_them(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(url, ())
    Bill(tenant="before").async_().call()
    configure(url, COLUMNS, create_tables=False)
    # The commands use the runtime that the application has configured.
    invoke = CliRunner().invoke
    assert invoke(main, ["db", "check"]).exit_code == 1
    printed = invoke(main, ["db", "sql"], catch_exceptions=False).stdout

    upgraded = invoke(main, ["db", "upgrade"], catch_exceptions=False)

    assert printed.count("ADD COLUMN") == len(COLUMNS)
    assert printed.count("CREATE INDEX") == 2
    assert "added tenant, order, urgent" in upgraded.output
    assert invoke(main, ["db", "check"], catch_exceptions=False).exit_code == 0
    assert "already at schema version" in invoke(main, ["db", "upgrade"], catch_exceptions=False).output
    Bill(tenant="acme").async_().call()
    assert records.where(tenant="acme").count() == 1
    inspector = sa.inspect(current_runtime().store.database.engine)
    assert {"ix_operation_own_tenant", "ix_operation_own_payer"} <= {
        index["name"] for index in inspector.get_indexes("operation_records")
    }


def test_upgrade_creates_the_missing_index_of_an_existing_column(url: str) -> None:
    configure(url, [RecordColumn("tenant", str, length=768), RecordColumn("payer", UUID, index=True)])
    Bill(tenant="before").async_().call()
    configure(
        url,
        [RecordColumn("tenant", str, length=768, index=True), RecordColumn("payer", UUID, index=True)],
        create_tables=False,
    )
    Bill(tenant="without the index").async_().call()
    invoke = CliRunner().invoke
    checked = invoke(main, ["db", "check"])
    assert checked.exit_code == 1
    assert "no index on tenant. Run: dexpy db upgrade" in checked.output
    printed = invoke(main, ["db", "sql"], catch_exceptions=False).stdout
    assert printed.count("CREATE INDEX") == 1

    assert "created the index on tenant" in invoke(main, ["db", "upgrade"], catch_exceptions=False).output

    assert invoke(main, ["db", "check"], catch_exceptions=False).exit_code == 0
    assert "CREATE INDEX" not in invoke(main, ["db", "sql"], catch_exceptions=False).stdout


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sql_without_a_database_has_the_columns(dialect: str) -> None:
    configure("sqlite:///app.db")

    creation = CliRunner().invoke(main, ["db", "sql", "--from", "0", "--dialect", dialect]).stdout

    assert "tenant VARCHAR(10)" in creation
    assert "CREATE INDEX ix_operation_own_tenant ON operation_records (tenant);" in creation
    assert not Path("app.db").exists()


def test_other_processes_and_retries_keep_the_values(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    configure(url)
    ticket = Bill(tenant="acme").async_().call()
    ticket.cancel()
    configure(url, ())
    dexpy.Ticket.get(ticket.id).retry()
    Bill(tenant="without").async_().call()
    configure(url)

    assert [record.status for record in records.where(tenant="acme")] == ["pending"]
    assert records.where(tenant=None).count() == 1


def test_a_class_with_an_encrypted_prop_is_refused_as_a_source(tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path / 'app.db'}", encryption_keys=Fernet.generate_key().decode())
    with pytest.raises(OptionsError, match=r"would store the value of .*Encrypted\.tenant, which is sensitive"):
        Encrypted(tenant="acme").async_().call()


def test_a_context_value_of_a_sensitive_prop_is_refused_as_a_source() -> None:
    configure("sqlite:///app.db", [RecordColumn("region", context="current_token")])
    assert WithToken.contract is not None
    with dexpy.context(current_token="hidden"), pytest.raises(OptionsError, match="which is sensitive") as refused:
        Bill(tenant="acme").call()
    assert "hidden" not in str(refused.value)


def test_an_application_without_columns_has_the_standard_table() -> None:
    configure("sqlite:///app.db")
    configure("sqlite:///other.db", ())

    assert tuple(schema.records.columns) == STANDARD_COLUMNS
    assert not any("own" in str(index.name) for index in schema.records.indexes)
