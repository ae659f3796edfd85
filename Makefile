# make demo         set up and answer real benchmark questions offline, on the embedded pocket model
# make eval         measure the pocket model on every colour and shape task whose file is there, in ten minutes
# make test         set up and run every capability once, in five minutes on two cores
# make proof        the long checks: sweeps, kills, several processes, notebooks
# make test-newest  make test's checks on the newest libraries; says which moved since the lock
# make test-oldest  the same on the oldest that setup.cfg allows
# make lock         write requirements.lock anew: the versions that make demo and make test install
# make pocket       rebuild the pocket model from nothing (hours on two cores); needs the Debian package fonts-noto-color-emoji
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN = .venv/bin
UV = .uv/bin/uv
# A worker per core, each on one thread: two processes beside each other beat one on two threads.
PYTEST = OMP_NUM_THREADS=1 $(RUN)/pytest -n auto --dist worksteal
MOVED = (echo "libraries that differ from requirements.lock:"; $(UV) pip freeze --python $(RUN)/python | grep == | \
	grep -vxFf requirements.lock.versions) 

.PHONY: demo eval test proof test-newest test-oldest lock pocket format
