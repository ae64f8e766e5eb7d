# Everything here sets itself up. Python >= 3.11 and make must be there, and what the description of a target names.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo

FAULTS ?=
SECONDS ?= 60
SEEDS ?= 0-5000
SEED ?= 1
EVENTS ?=
OUT ?= out
CYCLES ?= 1000000
MUTANTS ?=

.PHONY: test-strict versions simulate chaos soak faults fuzz mutants demo test check format lint types pyright coverage core-coverage devices kernels bench bench-peers docs report-image pictures site lowest release help clean

demo: $(DEMO_READY)  ## run the example in which several processes negotiate and share image buffers; the result is in out/ (OUT=DIR, CAMERA=/dev/video0)
	$(BIN)/python examples/camera_pipeline --out $(OUT) $(if $(CAMERA),--video $(CAMERA))

RUN := python

test: $(READY)  ## run all tests
	@# A path of its own, and a short one: sockets' addresses have no room for more.
	directory=$$(mktemp -d /tmp/t.XXXXXX) && $(BIN)/$(RUN) -m pytest -n auto --basetemp=$$directory/t $(OPTIONS); \
		status=$$?; rm -rf $$directory; exit $$status

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 16

test-strict: $(READY)  ## run all tests in Python's development mode, where every warning is an error, also in the processes that they start
	PYTHONDEVMODE=1 PYTHONWARNINGS=error $(MAKE) test

check: format lint types test  ## run the checks that must pass before a commit

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy
	for example in examples/*/__main__.py; do \
		MYPYPATH=$$(dirname $$example) $(BIN)/mypy $$(dirname $$example) || exit 1; \
	done

pyright: $(VENV)/.pyright  ## check the public interface, the README and the examples with pyright too
	$(BIN)/python -m pytest tests/typed

faults: $(READY)  ## make every system call of the daemon fail, one at a time (needs strace; FAULTS="--call statx --most 0")
	$(BIN)/python -m tests.faults $(FAULTS)

fuzz: $(VENV)/.fuzz  ## search for inputs that break parsers, guided by coverage (SECONDS=60 for all targets together)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

mutants: $(VENV)/.mutants  ## change single places of the code and see whether the package's own tests notice (MUTANTS="--seed 2 --count 30 tree")
	$(BIN)/python -m tests.mutants $(MUTANTS)

simulate: $(READY)  ## simulate whole daemons with dozens of clients from seeds (SEEDS=FIRST-LAST, or one that failed)
	$(BIN)/python -m tests.simulation $(SEEDS)

chaos: $(READY)  ## run one daemon with hundreds of participants of several users that misbehave, stop and die (SECONDS=60 SEED=1)
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(if $(EVENTS),--events $(EVENTS))

soak: $(READY)  ## run as many negotiations of all kinds as in a day (CYCLES=1000000), and draw soak.svg
	$(BIN)/python -m tests.soak --cycles $(CYCLES) --json soak.json --plot soak.svg

coverage core-coverage: export COVERAGE_FILE := $(CURDIR)/.coverage/data
# A process that was killed as it wrote leaves a file that can't be read.
REPORT := PYTHONWARNINGS=default $(BIN)/coverage report
REPORT_CORE := $(REPORT) --include='*/sysmemd/constraints/*,*/sysmemd/explaining/*,*/sysmemd/tree/*'
# Processes of other users write data too.
define measure
	rm -rf .coverage && mkdir -m 1777 .coverage
	$(MAKE) test RUN="coverage run" OPTIONS="$(OPTIONS) $(1)"
	PYTHONWARNINGS=default $(BIN)/coverage combine --quiet
endef

# With TESTS, what these tests leave is only shown.
coverage: $(READY)  ## run all tests, and show the code that none of them runs; fails below 98 % of the lines and branches, and 100 % of the pure core's (TESTS=tests/sysmem for some)
	$(call measure,$(TESTS))
	$(REPORT) $(if $(TESTS),,--fail-under=98)
	$(REPORT_CORE) $(if $(TESTS),,--fail-under=100)

core-coverage: $(READY)  ## run the tests of the pure core; fails if they leave a line or a branch of it
	$(call measure,$(addprefix tests/sysmemd/,constraints explaining tree))
	$(REPORT_CORE) --fail-under=100

# The emulated processor takes a minute to compile what these first two lines compile in two seconds.
devices: $(READY)  ## run the tests that need dma-bufs, a camera and a graphics device in a virtual machine that has them (needs Debian on amd64)
	unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -m compileall -q client protocol server examples
	unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -m pytest -q -p no:cacheprovider -p no:xdist --collect-only tests/devices >/dev/null
	tests/devices/run-vm --modules "vgem vhci_hcd uvcvideo vivid,n_devs=2,node_types=0x1,0x1,multiplanar=1,2" --memory 1536 --timeout 1200 -- \
		$(BIN)/python -m pytest -q -p no:cacheprovider -p no:xdist tests/devices

# The suites of Debian and the kernels that `make kernels` boots.
KERNELS ?= bookworm-backports:6.12 trixie-backports:7.3

kernels: $(READY)  ## test the daemon's assumptions about the kernel on other kernels in a virtual machine (20 minutes each; needs Debian on amd64)
	for kernel in $(KERNELS); do \
		tests/devices/run-vm --suite $${kernel%:*} --kernel $${kernel#*:} --memory 1536 --timeout 3600 -- \
			$(BIN)/python -m pytest -q -p no:cacheprovider -p no:xdist --timeout 600 --basetemp=/tmp/k \
			--ignore tests/sysmemd/memory/test_soak.py tests/sysmemd/memory tests/scenarios/test_lifetime.py tests/scenarios/test_weak.py \
			tests/wire/test_collections.py tests/wire/test_attach.py tests/wire/test_weak.py || exit 1; \
	done

bench: $(READY)  ## measure the speed, as ratios to floors measured in the same run, and print JSON
	$(BIN)/python benchmarks/run.py

bench-peers: $(VENV)/.peers  ## compare the speed with alternatives that a Python user would build (needs dbus-daemon)
	$(BIN)/python benchmarks/peers.py

docs: $(READY)  ## write the pages that are derived from the code
	$(BIN)/python -m docs.tools.generate
	$(BIN)/python packaging/generate.py packaging/share

report-image: $(READY)  ## redraw the page of `sysmemctl report` that the README shows (needs chromium)
	$(BIN)/python docs/images/report.py

pictures: $(READY)  ## run the pages with drawings, and redraw the state of the daemon
	$(BIN)/python -m docs.tools.pictures

site: $(VENV)/.site  ## build the documentation into site/, to be opened from disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Direct dependencies have the lowest versions that pyproject.toml allows; what these need has the newest.
lowest:  ## run the tests with the lowest allowed versions of all dependencies (TESTS=tests/sysmem for some of them)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
		--group dev --editable '.[av,pillow,testing,tools]'
	directory=$$(mktemp -d /tmp/l.XXXXXX) && \
		.venv-lowest/bin/python -m pytest -q -n auto -p no:cacheprovider --basetemp=$$directory/t $(TESTS); \
		status=$$?; rm -rf $$directory; exit $$status

versions: $(READY)  ## run the tests with every installed CPython from 3.11 on (PYTHONS="/path/to/python3.14", TESTS=tests/sysmem for some)
	$(BIN)/python packaging/versions.py $(addprefix --python ,$(PYTHONS)) -- $(OPTIONS) $(TESTS)

release: $(VENV)/.release  ## build into dist/, check, and use the result in fresh environments; a tag must be the version (RELEASE=--no-demo leaves out the demo)
	rm -rf dist
	$(BIN)/python packaging/release.py $(RELEASE) dist

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable .
	touch $@ $(DEMO_READY)

$(DEMO_READY): pyproject.toml
	@echo "Installing what the demo needs into $(VENV): 80 MB to download."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --disable-pip-version-check --group demo --editable .
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --group photograph
	touch $@

$(VENV)/.peers: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group peers
	touch $@

$(VENV)/.fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	touch $@

$(VENV)/.mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group mutants
	touch $@

$(VENV)/.site: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group site
	touch $@

$(VENV)/.release: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group release
	touch $@

$(VENV)/.pyright: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group pyright
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-3.* out build dist site .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
