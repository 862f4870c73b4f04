"""What is read out of a driver's error."""

from __future__ import annotations

import sqlite3

import psycopg
import pymysql
import pytest
from sqlalchemy.exc import DBAPIError

from dexpy.database.error_codes import code_of, is_locked
from dexpy.database.errors import is_away, is_conflict, is_full


def of_mariadb(number: int, state: str | None) -> pymysql.err.OperationalError:
    error = pymysql.err.OperationalError(number, "as the server says it")
    # As PyMySQL does it from 1.2 on.
    error.__dict__["sqlstate"] = state
    return error


@pytest.mark.parametrize("state", ["HY000", None])
def test_an_error_number_of_mariadb_is_more_precise_than_its_state(state: str | None) -> None:
    late = DBAPIError("", {}, of_mariadb(1205, state))
    assert code_of(late) == 1205
    assert is_locked(late)
    assert is_conflict(late)
    assert is_away(late)
    assert not is_locked(DBAPIError("", {}, of_mariadb(1213, "40001")))
    assert is_conflict(DBAPIError("", {}, of_mariadb(1213, "40001")))
    assert not is_away(DBAPIError("", {}, of_mariadb(1146, "42S02")))


def test_a_state_of_postgresql_is_its_code() -> None:
    assert code_of(DBAPIError("", {}, psycopg.errors.LockNotAvailable("in its words"))) == "55P03"
    assert is_locked(DBAPIError("", {}, psycopg.errors.LockNotAvailable("in its words")))
    assert is_away(DBAPIError("", {}, psycopg.errors.AdminShutdown("in its words")))
    assert not is_away(DBAPIError("", {}, psycopg.errors.UndefinedTable("in its words")))


def test_an_error_of_the_driver_itself_has_no_code() -> None:
    no_server = DBAPIError("", {}, psycopg.OperationalError("connection refused"))
    assert code_of(no_server) is None
    assert is_away(no_server)
    assert not is_away(DBAPIError("", {}, psycopg.InterfaceError("a wrong call")))


def test_a_busy_file_counts_as_unavailable_and_other_errors_of_it_do_not() -> None:
    assert is_away(DBAPIError("", {}, sqlite3.OperationalError("database is locked")))
    assert not is_away(DBAPIError("", {}, sqlite3.OperationalError("no such table: effects")))
    assert code_of(ValueError("no error of a database")) is None


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DiskFull("could not extend file"),
        psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
        of_mariadb(1021, "HY000"),
        of_mariadb(1114, "HY000"),
        of_mariadb(1290, "HY000"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
    ],
    ids=str,
)
def test_a_full_disk_and_a_read_only_server_count_as_temporary(error: Exception) -> None:
    assert is_full(DBAPIError("", {}, error))
    assert is_away(DBAPIError("", {}, error))
    assert not is_full(DBAPIError("", {}, psycopg.errors.UndefinedTable("in its words")))
