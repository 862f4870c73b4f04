"""Applications with Flask-SQLAlchemy and Alembic, as on the how-to pages."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
import test_docs
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData

import dexpy
import dexpy.alembic
from dexpy import Operation, records
from dexpy.database import schema

OWN = {table.name for table in schema.TABLES}
FLASK = test_docs.HOME / "docs" / "howto" / "flask-sqlalchemy.md"
ALEMBIC = test_docs.HOME / "docs" / "howto" / "alembic.md"
SQLITE = pytest.param("sqlite")
SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]


@pytest.fixture(params=[SQLITE, *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url


@pytest.fixture
def connection(url: str) -> Generator[sa.Connection]:
    """A connection to a database with dexpy's tables and a table of the application."""
    engine = sa.create_engine(url)
    with engine.begin() as setup:
        assert set(records.create_tables(setup)) == OWN
        application().create_all(setup)
    with engine.connect() as reader:
        yield reader
    engine.dispose()


def application() -> MetaData:
    metadata = MetaData()
    sa.Table(
        "accounts",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Index("ix_accounts_name", "name"),
    )
    return metadata


def proposed(connection: sa.Connection, target: Any, **options: Any) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), target))


def test_d1_without_the_filter_of_the_page_the_tables_would_be_dropped(connection: sa.Connection) -> None:
    differences = proposed(connection, application())

    assert {each[1].name for each in differences if each[0] == "remove_table"} == OWN


class Note(Operation):
    def perform(self) -> None: ...


def test_d1_the_page_shows_how_tables_that_a_first_call_created_are_kept(tmp_path: Path) -> None:
    page = ALEMBIC.read_text("utf-8")
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'app.db'}")
    Note().call()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")

    with engine.connect() as connected:
        assert proposed(connected, MetaData())
        assert proposed(connected, [MetaData(), records.table.metadata]) == []
        assert "target_metadata=[Base.metadata, dexpy.alembic.metadata]" in page
        assert proposed(connected, [MetaData(), dexpy.alembic.metadata], compare_type=True) == []
        assert "include_object=dexpy.alembic.include_object" in page
        assert proposed(connected, MetaData(), include_object=dexpy.alembic.include_object) == []
    engine.dispose()
    runtime.close()


@pytest.mark.parametrize("compares", [{}, {"compare_type": True}], ids=["names", "types"])
def test_d1_alembic_ignores_the_tables_or_finds_no_difference(
    connection: sa.Connection, compares: dict[str, Any]
) -> None:
    mine = application()

    assert proposed(connection, mine, include_object=records.include_object, **compares) == []
    assert proposed(connection, [mine, records.metadata], **compares) == []
    assert proposed(connection, [mine, records.metadata], include_object=records.include_object, **compares) == []
    assert proposed(connection, [mine, records.table.metadata], **compares) == []


def test_d1_changes_of_the_application_are_still_found(connection: sa.Connection) -> None:
    mine = application()
    mine.tables["accounts"].append_column(sa.Column("closed", sa.Boolean))
    sa.Table("orders", mine, sa.Column("id", sa.Integer, primary_key=True))

    differences = proposed(connection, mine, include_object=records.include_object)
    removals = proposed(connection, MetaData(), include_object=records.include_object)

    assert sorted(each[0] for each in differences) == ["add_column", "add_table"]
    assert {each[1].name for each in removals if each[0] == "remove_table"} == {"accounts"}


def test_d1_a_column_that_dexpy_lacks_is_found_where_its_tables_are_included(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE operation_queues DROP COLUMN created_at")

    (difference,) = proposed(connection, [application(), records.metadata])

    assert (difference[0], difference[2], difference[3].name) == ("add_column", "operation_queues", "created_at")
    assert schema.problems(connection) == ["table operation_queues lacks created_at"]


def test_d1_tables_are_created_once_by_the_first_process(connection: sa.Connection) -> None:
    assert records.create_tables(connection) == []
    connection.rollback()


# ------------------------------------------------------------------------------------------------ the page on servers


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Any:
    def run(command: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        arguments = shlex.split(command)
        process = subprocess.run(
            [sys.executable, "-m", *arguments] if arguments[0] in ("alembic", "dexpy", "pytest") else arguments,
            cwd=tmp_path, env=environment | {"PATH": path}, timeout=100, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr + process.stdout
        return process.stdout + process.stderr

    return run


REQUEST = """
from blog import Post, db
from wsgi import app
with app.app_context():
    db.session.add(Post(id=1, title="Hello"))
    db.session.commit()
sent = app.test_client().post("/posts/1/likes")
assert sent.status_code == 202, sent.data
print(sent.json["ticket"])
"""
ANSWER = """
import sys
from wsgi import app
print(app.test_client().get(f"/tickets/{sys.argv[1]}").json)
"""


@pytest.mark.servers
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_flask_application_of_the_page_migrates_enqueues_runs_and_tests_on_a_server(
    kind: str, run: Any, tmp_path: Path
) -> None:
    with servers.database(kind, tmp_path) as url, servers.database(kind, tmp_path) as test_url:
        run("alembic init migrations")
        for block in test_docs.blocks_of(FLASK.read_text("utf-8")):
            if block.word == "file":
                code = block.code.replace("sqlite:///blog.db", url)
                # MariaDB requires the length of a text column.
                code = code.replace("title: Mapped[str]", "title: Mapped[str] = mapped_column(db.String(80))")
                code = code.replace('f"sqlite:///{tmp_path}/test.db"', repr(test_url))
                if "0002" in str(block.argument):
                    run("alembic revision --autogenerate -m posts --rev-id 0001")
                (tmp_path / str(block.argument)).write_text(code)
        (tmp_path / "request.py").write_text(REQUEST)
        (tmp_path / "answer.py").write_text(ANSWER)

        run("alembic upgrade head")
        assert "No new upgrade operations detected." in run("alembic check")
        ticket = run(f"{shlex.quote(sys.executable)} request.py").strip()
        assert "run.succeeded operation=blog.Like" in run("dexpy worker wsgi -p 1 -t 2 --burst")
        assert "'result': 1, 'status': 'done'" in run(f"{shlex.quote(sys.executable)} answer.py {ticket}")
        assert "1 passed" in run("pytest -q -p no:valkey test_blog.py -k counted")
