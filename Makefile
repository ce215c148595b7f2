# Two commands matter: `make demo` and `make test`. Both set up .venv first, once; a second call works offline.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PINS := deployments/constraints.txt

.PHONY: demo test constraints clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@$(RUN) -m flows.cli run

test: $(VENV)/installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true). Name another: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv installs in seconds what pip resolves for minutes, but reads none of pip's configuration: it is passed on.
define install
	@$(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install --quiet uv || echo "uv cannot be installed; pip takes longer"
	@set -e; \
	links="$${PIP_FIND_LINKS:-$$($(RUN) -m pip config get global.find-links 2>/dev/null || true)}"; \
	index="$${PIP_INDEX_URL:-$$($(RUN) -m pip config get global.index-url 2>/dev/null || true)}"; \
	if $(RUN) -m uv --version >/dev/null 2>&1; then \
		set -- -m uv pip install --python $(RUN); \
		for link in $$links; do set -- "$$@" --find-links "$$link"; done; \
		if [ -n "$$index" ]; then set -- "$$@" --default-index "$$index"; fi; \
	else \
		set -- -m pip install; \
	fi; \
	echo "installing into $(VENV)"; \
	$(RUN) "$$@" --quiet -e '$(1)' -c $(PINS)
	@touch $@
endef

$(VENV)/installed: pyproject.toml $(PINS) | $(VENV)/bin/python
	$(call install,.)

$(VENV)/installed-test: pyproject.toml $(PINS) | $(VENV)/bin/python
	$(call install,.[test])
	@touch $(VENV)/installed

# Without local wheels: they would pin a build that others cannot get.
constraints: $(VENV)/installed
	$(RUN) -m uv pip compile pyproject.toml --all-extras --universal --upgrade --no-header --no-annotate --python-version 3.11 --output-file $(PINS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
