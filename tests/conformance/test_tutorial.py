"""The application of the tutorial on servers: two variables differ, and its tables are created beforehand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import servers
import sqlalchemy as sa
from test_docs import HOME, follow

PAGE = HOME / "docs" / "tutorial" / "first-operation.md"


@pytest.mark.parametrize("name", ["postgresql+redis", "mariadb+sql", "postgresql+rabbitmq"])
def test_the_application_of_the_tutorial_runs_unchanged(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    kind, _, transport = name.partition("+")
    with servers.database(kind, tmp_path) as url, servers.broker(transport) as broker:
        named = environment | {"DEXPY_DATABASE": url} | ({"DEXPY_BROKER": broker} if broker else {})
        init = [sys.executable, "-m", "dexpy", "db", "init"]
        subprocess.run(init, cwd=tmp_path, env=named, check=True, capture_output=True)

        follow(PAGE, tmp_path, named)

        crashed = "SELECT record_id FROM operation_attempts WHERE failure = 'crash'"
        query = f"SELECT operation, status FROM operation_records WHERE id IN ({crashed})"
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            assert connection.execute(sa.text(query)).all() == [("money.Convert", "done")]
        assert list(tmp_path.glob("*.db")) == []
