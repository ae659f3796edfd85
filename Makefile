# make demo         set up and answer real benchmark questions offline, on the embedded pocket model
# make eval         measure the pocket model on every colour and shape task whose file is there, in ten minutes
# make test         set up and check every capability once: 4 to 8 minutes on two cores
# make proof        the long checks: sweeps, kills, full disks, malformed input, notebooks, the wheel
# make test-newest  the checks of make test on the newest libraries; says which moved since the lock
# make test-oldest  the same on the oldest libraries that setup.cfg allows
# make lock         write requirements.lock anew: what make demo and make test install, with hashes
# make pocket       rebuild the pocket model from nothing (hours on two cores); needs the Debian package fonts-noto-color-emoji
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV = .uv/bin/uv
UV_VERSION = 0.13.9
RUN = .venv/bin
LEFT_OUT = .ci/left_out.txt
# A worker for each core, on one thread: two processes beside each other beat one of two threads.
PYTEST = OMP_NUM_THREADS=1 $(RUN)/pytest -n auto --dist worksteal

.PHONY: demo eval test proof proof-tests proof-inputs test-newest test-oldest others lock pocket format

$(UV): Makefile
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $(UV)

.venv/ready: $(UV) requirements.lock setup.cfg pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(RUN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(RUN)/python --no-deps -e .
	touch .venv/ready

lock: $(UV)
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --extra dev setup.cfg --overrides $(LEFT_OUT) --output-file requirements.lock

demo: .venv/ready
	$(RUN)/python -m eval.demo

eval: .venv/ready
	$(RUN)/python -m eval.colours_and_shapes

test: .venv/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(PYTEST)

proof: proof-tests proof-inputs

proof-tests: .venv/ready
	VLMIG_PROOF=1 $(PYTEST) $(MORE) -m "proof or scaled"

proof-inputs: .venv/ready
	OMP_NUM_THREADS=1 $(RUN)/python -m tools.fuzz
	$(RUN)/python -m tools.counts
	$(RUN)/python -m tools.path_of_ask

test-newest: $(UV)
	$(MAKE) others RUN=.venv-newest/bin RESOLUTION=highest

test-oldest: $(UV)
	$(MAKE) others RUN=.venv-oldest/bin RESOLUTION=lowest-direct

others:
	$(UV) venv --quiet --clear --python $(PYTHON) $(dir $(RUN))
	$(UV) pip install --quiet --python $(RUN)/python --resolution $(RESOLUTION) \
		--overrides $(LEFT_OUT) -e ".[dev]"
	$(RUN)/python -m tools.moved
	$(PYTEST)

pocket: .venv/ready
	$(RUN)/python -m tools.pocket

format: .venv/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
