# make demo   set up and answer real benchmark questions offline, on the embedded pocket model
# make eval   measure the pocket model on every colour and shape task whose file is there, in ten minutes
# make test   set up and run every check, as CI does
# make proof  the slow versions of the tests
# make pocket rebuild the pocket model from nothing (hours on two cores); needs the Debian package fonts-noto-color-emoji
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN = .venv/bin

.PHONY: demo eval test proof pocket format

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch .venv/ready

demo: .venv/ready
	$(RUN)/python -m eval.demo

eval: .venv/ready
	$(RUN)/python -m eval.colours_and_shapes

test: .venv/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/pytest

proof: .venv/ready
	VLMIG_PROOF=1 $(RUN)/pytest

pocket: .venv/ready
	$(RUN)/python -m vlmig.pocket

format: .venv/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
