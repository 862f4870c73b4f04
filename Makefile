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

.PHONY: help demo test cases conformance server-tests wide-tests check docs bench-quick bench-smoke chaos chaos-quick hostile hostile-quick clean

help: ## show this
	@echo "make demo    operations run by a real worker process, in a few seconds"
	@echo "make test    the test suite, on SQLite and a Redis that it brings along"
	@echo "make cases   odd and hostile inputs, each with its siblings"
	@echo "make conformance  the same promises on every pair of PostgreSQL, MariaDB, SQLite and Redis, RabbitMQ, SQL"
	@echo "make server-tests  kills, outages, refusals and the like, on the same servers"
	@echo "make wide-tests  policies with real workers once more, on MariaDB and on RabbitMQ"
	@echo "make check   ruff, mypy and pyright"
	@echo "make docs    the code on the pages of docs/ and in the docstrings, run"
	@echo "make bench-quick  enqueue and drain beside raw psycopg and raw Dramatiq; needs PostgreSQL and Redis"
	@echo "make bench-smoke  the same in a few seconds: that it runs, not how fast"
	@echo "make chaos   operations while workers, producers and servers are killed, and all counted; ARGS=--help says more"
	@echo "make chaos-quick  the same in about two minutes, and what the count is worth"
	@echo "make hostile  hostile messages and rows, and what became of a small run after each; ARGS=--help says more"
	@echo "make hostile-quick  the same on three pairs in about a minute, and what it is worth"
	@echo "make clean   remove .venv and what tools have left"

demo: $(CORE)
	@$(PYTHON) -m dexpy demo

test: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(PAGES:%=--ignore=%) --ignore=$(CASES)

cases: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) $(CASES)

conformance: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) -m "servers or anywhere" $(PAIRS)

server-tests: $(DEV)
	@$(PYTHON) -m pytest -n $(SERVER_PROCESSES) -m "(servers or anywhere) and not wide" $(PAIRS:%=--ignore=%)

wide-tests: $(DEV)
	@$(PYTHON) -m pytest -n $(PROCESSES) -m wide

check: $(DEV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pyright

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
