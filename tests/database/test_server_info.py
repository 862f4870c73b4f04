"""What a driver's error at connecting means: a refusal, or a server to wait for."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pymysql
import pytest

from dexpy.database.server_info import is_only_down

TO = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '
DOWN = [
    psycopg.OperationalError(TO + "Connection refused\n\tIs the server running on that host?"),
    psycopg.OperationalError(TO + "FATAL:  the database system is starting up"),
    psycopg.OperationalError(TO + "FATAL:  the database system is shutting down"),
    psycopg.OperationalError(TO + "FATAL:  sorry, too many clients already"),
    psycopg.OperationalError("failed to resolve host 'db.example': [Errno -2] Name or service not known"),
    psycopg.OperationalError("connection is bad: server closed the connection unexpectedly"),
    psycopg.errors.ConnectionTimeout("connection timeout expired"),
    pymysql.err.OperationalError(2003, "Can't connect to MySQL server on 'h' ([Errno 111] Connection refused)"),
    pymysql.err.OperationalError(1040, "Too many connections"),
    pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"),
]
REFUSALS = [
    psycopg.OperationalError(TO + 'FATAL:  password authentication failed for user "shop"'),
    psycopg.OperationalError(TO + "fe_sendauth: no password supplied"),
    psycopg.OperationalError(TO + 'FATAL:  database "shop" does not exist'),
    psycopg.OperationalError(TO + 'FATAL:  role "shop" is not permitted to log in'),
    psycopg.OperationalError(TO + 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "shop"'),
    psycopg.OperationalError(TO + "server does not support SSL, but SSL was required"),
    psycopg.OperationalError(TO + "SSL error: certificate verify failed"),
    psycopg.ProgrammingError('invalid connection option "no_such_option"'),
    pymysql.err.OperationalError(1045, "Access denied for user 'shop'@'10.0.0.1' (using password: YES)"),
    pymysql.err.OperationalError(1049, "Unknown database 'shop'"),
    pymysql.err.OperationalError(2003, "Can't connect to MySQL server ([SSL: CERTIFICATE_VERIFY_FAILED])"),
    sqlite3.OperationalError("unable to open database file"),
    None,
]


@pytest.mark.parametrize("error", DOWN, ids=str)
def test_a_temporary_error_counts_as_an_outage(error: Any) -> None:
    assert is_only_down(error)


@pytest.mark.parametrize("error", REFUSALS, ids=str)
def test_a_permanent_error_counts_as_a_refusal(error: Any) -> None:
    assert not is_only_down(error)
