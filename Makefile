# Two commands for a newcomer: `make demo` and `make test`. Everything is installed into .venv, from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs benchmarks experiments tables clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.done
	$(BIN)/previa demo --out demo-out

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term --cov-fail-under=90

check: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/make_reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/dev.done
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

benchmarks: $(VENV)/dev.done
	for name in merge squared_gradients ivon_step sweep simplex; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# make experiments SCALE=tiny: all of them in some minutes, with numbers that mean nothing; SCALE=paper DEVICE=cuda: the paper's sizes.
SCALE ?= small
DEVICE ?= cpu

experiments: $(VENV)/demo.done
	$(BIN)/python experiments/all.py --scale $(SCALE) --device $(DEVICE)

tables: $(VENV)/demo.done
	for name in table1 table2 table3 fronts; do $(BIN)/python experiments/$$name.py || exit 1; done

# An editable install: the source is used as it stands, so a change of code needs no new install.
$(VENV)/demo.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/dev.done: $(VENV)/demo.done requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) demo-out site .pytest_cache .mypy_cache .ruff_cache .coverage*
