# Everything that a fresh machine needs is installed into .venv; nothing else is touched.

# Where python3 was built without profile-guided optimisation (pyenv's default), the system's is 8 % faster.
OPTIMISED := import sys, sysconfig; sys.exit("--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""))
USABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell python3 -c '$(OPTIMISED)' 2> /dev/null || ! /usr/bin/python3 -c '$(USABLE)' 2> /dev/null \
	&& echo python3 || echo /usr/bin/python3)

VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 10
WORKERS ?= auto
INPUTS ?= 1000000
ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: serve demo test bench bench-quick bench-docs bench-soak bench-overload regret policy-costs fuzz audit load-tools clean

serve: $(VENV)/.installed
	@exec $(BIN)/multiarm serve

demo: $(VENV)/.installed
	@exec $(BIN)/multiarm demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.installed-bench load-tools
	@$(BIN)/python benchmarks/run.py all

bench-quick: $(VENV)/.installed load-tools
	@$(BIN)/python benchmarks/run.py quick

bench-docs: $(VENV)/.installed-bench
	@$(BIN)/python benchmarks/document.py

bench-soak: $(VENV)/.installed-test
	@$(BIN)/python benchmarks/run.py soak --minutes $(MINUTES)

regret: $(VENV)/.installed
	@$(BIN)/python benchmarks/regret.py

policy-costs: $(VENV)/.installed
	@$(BIN)/python benchmarks/policy_costs.py

bench-overload: $(VENV)/.installed load-tools
	-@$(BIN)/python benchmarks/overload.py
	@$(BIN)/python benchmarks/token_costs.py

fuzz: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]' \
		|| echo "atheris, which coverage guides, does not install here; going on without it"
	@$(BIN)/python tests/fuzz/run.py --inputs $(INPUTS)

audit: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

load-tools:
	@command -v wrk > /dev/null || { $(ROOT) apt-get update --quiet=2 && $(ROOT) apt-get install --quiet=2 --yes wrk; }

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("multiarm needs Python 3.11 or later; try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
