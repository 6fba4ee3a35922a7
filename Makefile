# The commands a person needs; CI and the images take the same steps.
#
#   PYTHON=...        the interpreter that makes .venv (default: the first of python3.13, 3.12, 3.11, python3 that is >= 3.11)
#   TORCH_INDEX=...   the package index to take torch from, and only torch (CPU or CUDA builds: README, "Choosing a torch build")
#   FAISS=cpu|gpu     which FAISS to install (default: cpu)
# What was chosen is kept in .venv: later commands need not repeat it, and another choice exchanges torch and FAISS.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench torture clean FORCE

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt constraints.hashes
# What pip fetched is held against constraints.hashes before it runs; what is not as recorded does not stay.
CHECK_HASHES = $(BIN)/python -I -S deploy/download_hashes.py check $(VENV)/report-*.json || { rm -rf $(VENV); echo '$(VENV) was removed.' >&2; exit 1; }

# Both stamps live inside .venv, so that removing .venv is a fresh start.
RUN_STAMP := $(VENV)/naiseki-run.stamp
DEV_STAMP := $(VENV)/naiseki-dev.stamp

INSTALLED   := $(shell cat $(RUN_STAMP) 2>/dev/null)
FAISS       ?= $(or $(word 1,$(INSTALLED)),cpu)
TORCH_INDEX ?= $(word 2,$(INSTALLED))
CHOICE      := $(strip $(FAISS) $(TORCH_INDEX))
ifneq ($(INSTALLED),$(CHOICE))
$(RUN_STAMP): FORCE
EXCHANGE := $(if $(INSTALLED),torch faiss-cpu faiss-gpu)
endif

# One thread each: two test workers, and on a small machine a training beside the service, would otherwise fight for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

help:
	@echo 'make demo    train on MovieLens 100K, serve on 127.0.0.1:8000, swap an LLM version in while you call it'
	@echo 'make test    make check, then the whole test suite'
	@echo 'make check   ruff, mypy --strict, the import contract, one FAISS, versions as pinned'
	@echo 'make bench   the benchmarks in tests/benchmarks'
	@echo 'make torture swaps, crashes, overload, damage and hostile clients in full: hours, a table, tests/torture/results.json'
	@echo 'make clean   remove .venv and tool caches (published versions, data and histories stay)'
	@echo
	@echo 'Each makes .venv by itself. On another machine than plain CPU: make demo TORCH_INDEX=<index> FAISS=gpu (README).'

$(RUN_STAMP): $(PINS)
	@deploy/make_venv $(VENV) $(PYTHON)
	@$(if $(EXCHANGE),$(PIP) uninstall --quiet --yes $(EXCHANGE))
	@echo 'Installing torch; this is the large one.'
	@$(PIP) install --quiet --report $(VENV)/report-torch.json --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo 'Installing Naiseki and the rest.'
	@$(PIP) install --quiet --report $(VENV)/report-run.json --constraint constraints.txt --editable '.[$(FAISS),embedded]'
	@$(CHECK_HASHES)
	@echo '$(CHOICE)' > $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo 'Installing the tools for tests and checks.'
	@$(PIP) install --quiet --report $(VENV)/report-dev.json --constraint constraints.txt --editable '.[$(FAISS),embedded,dev]'
	@$(CHECK_HASHES)
	@touch $@

# exec: the demo gets Ctrl-C and SIGTERM itself, with no shell in between.
demo: $(RUN_STAMP)
	@exec $(BIN)/python -m deploy.demo

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/python -m model_store.faiss_install
	$(PIP) check

# First the few tests that need the machine to themselves (marker `alone`; pytest exits 5 when there are none), then the rest on two workers.
test: check
	$(ONE_THREAD) $(BIN)/pytest --ignore=tests/benchmarks -r s -m alone || test $$? -eq 5
	$(ONE_THREAD) $(BIN)/pytest --ignore=tests/benchmarks -r s -m 'not alone' --numprocesses 2

bench: $(DEV_STAMP)
	$(BIN)/pytest tests/benchmarks --capture=no -o python_files='bench_*.py test_*.py'

# Takes hours, and wants the machine to itself: the service on core 0, the load on core 1.
torture: $(DEV_STAMP)
	$(ONE_THREAD) $(BIN)/pytest tests/torture --full --capture=no -r s

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
