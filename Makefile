# What a developer types. The work is done by scripts/, which can be read and run on their own.
PYTHON ?= python3
CHECKED = $(wildcard src tests examples bench scripts)

.PHONY: install run test bench lint torture clean
.DEFAULT_GOAL := test

install: .venv/.installed

.venv/.installed: pyproject.toml scripts/install.sh
	scripts/install.sh $(PYTHON) .venv dev,postgres
	@touch $@

run: install
	.venv/bin/python -m scripts.example

test: install
	.venv/bin/python -m scripts.test

bench: install
	.venv/bin/python -m bench $(WORK)

lint: install
	.venv/bin/ruff check $(CHECKED)
	.venv/bin/mypy $(CHECKED)

torture: install
	EVERSTEP_TORTURE=1 .venv/bin/python -m scripts.postgres .venv/bin/pytest -n 2 --timeout 3600 tests/torture

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
