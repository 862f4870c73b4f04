# Everything runs in .venv, which the first command makes. Needs make and Python 3.11 or later, nothing else.

PYTHON = .venv/bin/python
# Tests mostly wait, so more of them run at once than there are cores: make test PROCESSES=8. With 0 all run in one process.
PROCESSES = 4
# Tests on servers start up to nine workers each and measure how soon they recover: fewer at once, or they measure the machine.
SERVER_PROCESSES = 2
# What every pair of a database and a broker does alike.
PAIRS = tests/conformance/test_pairs.py tests/conformance/test_workers.py tests/conformance/test_failures.py \
	tests/conformance/test_tutorial.py tests/journeys/test_dexkit_async_page.py
# The code of the pages and of the docstrings, a target of its own.
PAGES = tests/test_docs.py tests/test_doctests.py
# Odd and hostile inputs, each with its siblings.
CASES = tests/cases
# Upgrades of databases of earlier schemas, each in processes of its own.
MIGRATIONS = tests/database/test_migrations.py
# Calls that both type checkers must accept or refuse.
TYPING = tests/typing
CORE = .venv/.installed-core
DEV = .venv/.installed-dev

# The newest Python that can make a virtualenv.
define PREPARE
@found=; seen=; \
for name in python3.14 python3.13 python3.12 python3.11 python3 python; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
  seen="$$name"; \
  "$$name" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
  found="$$name"; break; \
done; \
if [ -z "$$seen" ]; then \
  echo "dexpy needs Python 3.11 or later, and none was found on the PATH. Install one: https://www.python.org/downloads/" >&2; exit 1; \
elif [ -z "$$found" ]; then \
  echo "$$seen has no ensurepip and cannot make a virtualenv. Install its venv package: apt install $$seen-venv, on Debian and Ubuntu." >&2; exit 1; \
fi; \
"$$found" .ci/prepare.py
endef

.PHONY: help demo test cases migrations conformance server-tests wide-tests schedules check docs bench-quick bench-smoke chaos chaos-quick hostile hostile-quick clean

help: ## list the targets
	@echo "make demo           run six operations in a real worker process; takes a few seconds"
	@echo "make test           run the test suite on SQLite and on a Redis server that it starts"
	@echo "make cases          run the tests of odd and hostile input"
	@echo "make migrations     upgrade SQLite databases of earlier schemas"
	@echo "make conformance    test the guarantees on every pair of database and broker"
	@echo "make server-tests   run the other tests that need PostgreSQL, MariaDB, Redis or RabbitMQ"
	@echo "make wide-tests     repeat the tests of policies and workers on the remaining pairs"
	@echo "make schedules      compare schedules in every time zone with a model; takes minutes"
	@echo "make check          run ruff, mypy and pyright, on the code and on calls that they must refuse"
	@echo "make docs           run the code of the pages and docstrings"
	@echo "make bench-quick    measure enqueue and drain, beside raw psycopg and raw Dramatiq; needs PostgreSQL and Redis"
	@echo "make bench-smoke    check in a few seconds that the benchmarks run"
	@echo "make chaos          kill workers, producers and servers under load, and audit the result; options: ARGS=--help"
	@echo "make chaos-quick    run the same for two minutes, with controls that must fail"
	@echo "make hostile        send hostile messages and rows, and time a small run after each batch; options: ARGS=--help"
	@echo "make hostile-quick  run the same on three pairs for a minute, with a control that must fail"
	@echo "make clean          remove .venv and the caches of the tools"

demo: $(CORE)
	@$(PYTHON) -m dexpy demo

test: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(PAGES:%=--ignore=%) $(foreach path,$(CASES) $(MIGRATIONS) $(TYPING),--ignore=$(path))

cases: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(CASES)

migrations: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(MIGRATIONS)

conformance: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) -m "servers or anywhere" $(PAIRS)

server-tests: $(DEV)
	@$(PYTHON) -m pytest -n $(SERVER_PROCESSES) -m "(servers or anywhere) and not wide" $(PAIRS:%=--ignore=%)

wide-tests: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) -m wide

schedules: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) -m zones tests/schedules

check: $(DEV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pyright
	$(PYTHON) -m pytest -n 2 $(TYPING)

docs: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(PAGES)

bench-quick: $(DEV)
	@$(PYTHON) -m benchmarks.quick

bench-smoke: $(DEV)
	@$(PYTHON) -m benchmarks.quick --rounds 1 --enqueues 20 --jobs 60

chaos: $(DEV)
	@PYTHONPATH=tests $(PYTHON) -m chaos $(ARGS)

chaos-quick: $(DEV)
	@PYTHONPATH=tests $(PYTHON) -m chaos --quick

hostile: $(DEV)
	@PYTHONPATH=tests $(PYTHON) -m hostile $(ARGS)

hostile-quick: $(DEV)
	@PYTHONPATH=tests $(PYTHON) -m hostile --quick

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): pyproject.toml
	$(PREPARE) core

$(DEV): pyproject.toml
	$(PREPARE) dev
