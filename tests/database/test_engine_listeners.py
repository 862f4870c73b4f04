"""Listeners on all engines of a process: they slow every connection, so they are there for SQLite alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGINNING = """
import sqlite3
import sqlalchemy as sa
from sqlalchemy.orm import Session
import dexpy

def shop():
    engine = sa.create_engine("sqlite:///shop.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE accounts (id INTEGER PRIMARY KEY)"))
    return engine

def watched():
    return bool(list(sa.create_engine("postgresql+psycopg://localhost/shop").dispatch.savepoint))

def opened_and_rolled_back(session):
    with dexpy.session(session):
        with session.begin_nested():
            session.execute(sa.text("SELECT 1"))
            session.execute(sa.text("INSERT INTO accounts DEFAULT VALUES"))
        session.rollback()
    print(session.execute(sa.text("SELECT count(*) FROM accounts")).scalar())
"""
ORDERS = {
    "an engine made afterwards": "import dexpy.recording.store; session = Session(shop())",
    "an engine made before": "engine = shop(); import dexpy.recording.store; session = Session(engine)",
    "a session begun before": """
session = Session(shop())
session.connection()
import dexpy.recording.store
""",
}


def printed(code: str, folder: Path) -> str:
    """What lines of code print in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    command = [sys.executable, "-c", BEGINNING + code]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_process_without_sqlite_has_no_listener_on_all_engines(tmp_path: Path) -> None:
    code = """
dexpy.configure(database="postgresql+psycopg://localhost/shop")
import dexpy.recording.store
from dexpy.database.engine import Database
Database("postgresql+psycopg://localhost/shop").engine
print(watched())
"""
    assert printed(code, tmp_path) == "False\n"


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_savepoint_on_sqlite_is_part_of_the_transaction_around_it(order: str, tmp_path: Path) -> None:
    assert printed(f"{order}\nopened_and_rolled_back(session)", tmp_path) == "0\n"
