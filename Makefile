# Every target does all of its own set-up; nothing is done twice.
#
#   make demo       train two Keras models on a mesh, beside one plain device
#   make test       checks, C++ tests, Python tests
#   make build      compile and install into .venv; seconds if little changed
#   make setup      .venv with pinned packages, Debian packages where missing
#   make lint       the checks alone          make format    put them right
#   make tidy       clang-tidy                make bench     the benchmarks
#   make conformance        every op, sampled, against plain torch
#   make conformance-full   every sample; writes docs/conformance.md
#   make conformance-plants do the suites see planted errors?
#   make counted    are the bytes counted in its cases those that move?
#   make keras-suite        Keras's own tests on the mesh
#   make keras-suite-full   also those that need TensorFlow or JAX; writes
#                           docs/keras-suite.md
#   make test-newest        builds and tests on the newest torch that the wheel
#                           has an engine for, in .venv-newest
#   make wheel      one wheel with an engine for each of these two torches
#   make try-wheel  ... as a user would, in fresh environments
#   make users      programs in the manner of users; writes docs/users.md
#   make random-programs    100,000 random programs, bit for bit; FIRST=0
#                           PROCESSES=2: on meshes over two processes
#   make hosts      two hosts on this machine, with a slow line between them;
#                   needs root and /dev/net/tun
#   make sanitize   C++ tests under ASan + UBSan, the torch-free ones under TSan
#   make fuzz       rules, layouts, redistributions: FUZZ_SECONDS in all (600)
#   make stress     threads that train at once, for two minutes
#   make faults     jobs of several processes of which one fails, differs, or is
#                   sent packets; FIRST=0
#   make check-github       the files of .github, offline
#   make compat     syntax of every source against the headers of other torches
#   make clean      remove what was built (.venv stays)

PYTHON ?= python3
JOBS ?= $(shell nproc)
TEST_JOBS ?= 2
DEMO ?= examples/demo.py

VENV ?= .venv
TORCH ?= requirements/torch.txt
BIN := $(VENV)/bin
RUN := $(BIN)/python
PIP := $(RUN) -m pip --disable-pip-version-check
SETUP := $(VENV)/.setup
TEST_SETUP := $(VENV)/.setup-test
BUILD ?= build/release
TIER_2 := build/tier2
BUILT := $(BUILD)/.installed
FUZZ_SECONDS ?= 600

# Directories too: a file added or removed changes its directory's time.
SOURCES := pyproject.toml CMakeLists.txt tools/build_backend.py \
  tools/wheel_dependencies.py \
  $(shell find cmake include src python -not -path '*/__pycache__*' 2>/dev/null)
FORMATTED = $(shell find include src tests examples benchmarks \
  \( -name '*.h' -o -name '*.cpp' \) -not -path '*/build/*' 2>/dev/null)

export KERAS_BACKEND := torch
export PIP_PROGRESS_BAR := off

NEWEST := VENV=.venv-newest BUILD=build/newest \
  TORCH=requirements/torch-newest.txt

.PHONY: demo test build setup lint format tidy bench sanitize fuzz stress \
  compat clean \
  test-newest wheel try-wheel engine-wheel check-github \
  conformance conformance-full conformance-plants counted coverage \
  keras-suite keras-suite-full \
  users random-programs faults hosts \
  test-cpp test-python

demo: build
	$(RUN) $(DEMO)

# pytest comes last: its summary closes the output.
test: build $(TEST_SETUP)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test-cpp
	@$(MAKE) --no-print-directory test-python

test-cpp: build $(TEST_SETUP)
	@$(BIN)/cmake -DTORCH_MESH_TESTS=ON $(BUILD) > build/configure.txt 2>&1 \
	  || { cat build/configure.txt; exit 1; }
	$(BIN)/cmake --build $(BUILD) -j $(JOBS) -t test_torch_free -t test_engine
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure

# Two files at a time; threads of torch's own would take turns on the cores.
test-python: build $(TEST_SETUP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_JOBS) --dist loadfile \
	  --no-loadscope-reorder

test-newest:
	$(MAKE) --no-print-directory $(NEWEST) test-cpp
	$(MAKE) --no-print-directory $(NEWEST) test-python

# An engine each; then one wheel, which dist/ holds.
RELEASE := build/release-tools
wheel: $(RELEASE)/.setup
	@$(MAKE) --no-print-directory engine-wheel
	@$(MAKE) --no-print-directory $(NEWEST) engine-wheel
	$(RELEASE)/bin/python tools/join_wheels.py build/wheels/*/*.whl \
	  --out build/wheels
	@rm -f dist/*.whl  # of another version
	$(RELEASE)/bin/python tools/repair_wheel.py build/wheels/*.whl --out dist

try-wheel: wheel
	$(RELEASE)/bin/python tools/try_wheel.py dist/*.whl

engine-wheel: build
	@rm -rf build/wheels/$(notdir $(BUILD)) build/wheels/*.whl
	@$(PIP) wheel -q --no-index --no-deps --no-build-isolation \
	  --config-settings=build-dir=$(BUILD) -w build/wheels/$(notdir $(BUILD)) .

# The workflow against the schema of workflows, and for what could be abused.
GITHUB := build/github-tools
check-github: $(GITHUB)/.setup
	$(GITHUB)/bin/check-jsonschema --builtin-schema vendor.github-workflows \
	  .github/workflows/*.yml
	$(GITHUB)/bin/check-jsonschema --builtin-schema vendor.dependabot \
	  .github/dependabot.yml
	$(GITHUB)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms \
	  .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/wish.yml
	$(GITHUB)/bin/zizmor --offline --pedantic .github

$(GITHUB)/.setup: requirements/github.txt
	test -x $(GITHUB)/bin/python || $(PYTHON) -m venv $(GITHUB)
	$(GITHUB)/bin/python -m pip install -q -r requirements/github.txt
	@touch $@

$(RELEASE)/.setup: requirements/release.txt
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install -q -r requirements/release.txt
	@touch $@

build: $(BUILT)

setup: $(SETUP) $(TEST_SETUP)

# torch first and by itself, so that no other package chooses it.
$(SETUP): requirements/build.txt $(TORCH) requirements/run.txt \
    tools/debian_packages.sh
	tools/debian_packages.sh build $(PYTHON)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -r $(TORCH)
	$(PIP) install -q -r requirements/build.txt -r requirements/run.txt
	@touch $@

$(TEST_SETUP): $(SETUP) requirements/test.txt requirements/users.txt
	tools/debian_packages.sh test $(PYTHON)
	$(PIP) install -q -r requirements/test.txt
	$(PIP) install -q --no-deps -r requirements/users.txt
	@touch $@

# Not editable: what is tested is what a user gets.
$(BUILT): $(SETUP) $(SOURCES)
	@mkdir -p build
	@echo "Compiling; progress is in build/log.txt"
	@$(PIP) install -v --no-index --no-deps --no-build-isolation \
	  --config-settings=build-dir=$(BUILD) \
	  --config-settings=build.tool-args=-j$(JOBS) . \
	  > build/log.txt 2>&1 || { cat build/log.txt; exit 1; }
	@grep -A 3 'warning:' build/log.txt || true
	@touch $@

lint: $(TEST_SETUP)
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(RUN) tools/check_layers.py
	$(RUN) tools/check_op_names.py
	$(RUN) tools/check_sizes.py
	@test -z "$(FORMATTED)" \
	  || $(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	$(BIN)/mypy

format: $(TEST_SETUP)
	$(BIN)/ruff check -q --fix . || true
	$(BIN)/ruff format -q .
	@test -z "$(FORMATTED)" || $(BIN)/clang-format -i $(FORMATTED)

tidy: build
	$(PIP) install -q -r requirements/tidy.txt
	@mkdir -p build/tidy  # clang-tidy brings no omp.h of its own
	@ln -sf $$(g++ -print-file-name=include/omp.h) build/tidy/omp.h
	$(BIN)/clang-tidy -p $(BUILD) --quiet \
	  --extra-arg=-isystem$(abspath build/tidy) $(wildcard src/*/*.cpp)

bench: build
	$(RUN) benchmarks/dispatch.py
	$(RUN) benchmarks/local_kernels.py
	$(RUN) benchmarks/fit.py

# One thread: the table is of CPU time.
users: build $(TEST_SETUP)
	OMP_NUM_THREADS=1 $(RUN) -m tests.users --markdown docs/users.md

# Not part of `test`: it asks more of the machine.
hosts: build $(TEST_SETUP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -v tests/hosts

# Ten parts, each of which says what it found.
FIRST ?= 0
PROGRAMS ?= 100000
PROCESSES ?= 1
random-programs: build $(TEST_SETUP)
	for part in 0 1 2 3 4 5 6 7 8 9; do OMP_NUM_THREADS=1 $(RUN) -W ignore \
	  -m tests.random_programs --processes $(PROCESSES) --count $$(($(PROGRAMS) / 10)) \
	  --first $$(($(FIRST) + part * ($(PROGRAMS) / 10))) || exit 1; done

# Most of a trial is a wait: more of them at once than cores. What torchrun
# starts loads all of torch and Keras each time.
faults: build $(TEST_SETUP)
	$(RUN) -m tests.faults --trials 160 --first $(FIRST) --jobs 3
	$(RUN) -m tests.faults --trials 40 --first $(FIRST) --launcher torchrun
	$(RUN) -m tests.faults --trials 40 --what divergent
	$(RUN) -m tests.faults --trials 10000 --what packets

sanitize: $(TEST_SETUP)
	@$(MAKE) --no-print-directory sanitize-address,undefined
	@$(MAKE) --no-print-directory sanitize-thread

# torch is not instrumented. ASan and UBSan do not mind; TSan would take what
# torch's own locks and threads guard for races.
sanitize-thread: ENGINE := OFF
sanitize-%: ENGINE := ON
# The linker takes a comma in a path for the end of it.
comma := ,
sanitize-%: BUILD_OF = build/$(subst $(comma),-,$*)
sanitize-%: $(TEST_SETUP)
	$(BIN)/cmake -S . -B $(BUILD_OF) -G Ninja \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DTORCH_MESH_ENGINE=$(ENGINE) -DTORCH_MESH_TESTS=ON \
	  -DTORCH_MESH_SANITIZE=$*
	$(BIN)/cmake --build $(BUILD_OF) -j $(JOBS)
	$(BIN)/ctest --test-dir $(BUILD_OF) --output-on-failure

# Four properties, a quarter of the time each; what they find stays in
# build/fuzz. The corpus is kept there too: a second run goes on from it.
FUZZERS := rule layout_algebra redistribution plan
fuzz: $(TEST_SETUP)
	tools/debian_packages.sh fuzz $(PYTHON)
	$(BIN)/cmake -S . -B build/fuzz -G Ninja \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DCMAKE_CXX_COMPILER=clang++-14 \
	  -DTORCH_MESH_ENGINE=OFF -DTORCH_MESH_FUZZ=ON
	$(BIN)/cmake --build build/fuzz -j $(JOBS)
	@cd build/fuzz && for name in $(FUZZERS); do \
	  mkdir -p corpus/$$name; \
	  ./fuzz_$$name -max_total_time=$$(($(FUZZ_SECONDS) / 4)) -seed=4 \
	    -max_len=400 -len_control=0 -timeout=20 -print_final_stats=1 corpus/$$name \
	    > $$name.txt 2>&1 || { tail -n 60 $$name.txt; exit 1; }; \
	  echo "$$name: $$(grep -o 'Done .*' $$name.txt)"; \
	done

stress: build $(TEST_SETUP)
	TORCH_MESH_STRESS_SECONDS=60 $(BIN)/pytest -s -v \
	  tests/python/test_threads.py -k bits_of_one_thread

# Then, with more devices than rows, in memory that is poisoned.
conformance: build $(TEST_SETUP)
	$(RUN) -m tests.conformance
	MALLOC_PERTURB_=85 $(RUN) -m tests.conformance --mesh 4 7 8 2x3 --quick \
	  --samples 2 --suite ops writes views destinations

conformance-full: build $(TEST_SETUP)
	$(RUN) -m tests.conformance --full \
	  --store build/conformance-full.jsonl --markdown docs/conformance.md

conformance-plants: build $(TEST_SETUP)
	$(RUN) -m tests.conformance --plant all --mesh 2 --quick --samples 12 \
	  --markdown docs/conformance-plants.md

# With a memory for each device, and with one for each two.
counted: build $(TEST_SETUP)
	for memories in "0 1 2 3" "0 0 1 1"; do OMP_NUM_THREADS=1 $(RUN) \
	  -m tests.conformance --memories $$memories --mesh 2x2 --quick \
	  --samples 1 || exit 1; done

# The share of ops that keep a sharded batch may not fall.
coverage: build $(TEST_SETUP)
	$(RUN) tools/coverage.py --check

keras-suite: build $(TEST_SETUP)
	$(RUN) tools/keras_suite.py

keras-suite-full: build $(TIER_2)/.setup
	$(RUN) tools/keras_suite.py --report docs/keras-suite.md
	$(RUN) tools/keras_suite.py --tier 2 --python $(TIER_2)/bin/python \
	  --modes stock,mesh,data,model --report docs/keras-suite.md

# An environment that sees the packages of .venv, and has more of its own.
$(TIER_2)/.setup: $(TEST_SETUP) requirements/suite.txt
	$(PYTHON) -m venv $(TIER_2) --without-pip
	realpath $(VENV)/lib/python3*/site-packages \
	  > "$$(echo $(TIER_2)/lib/python3*/site-packages)/venv.pth"
	$(PIP) --python $(TIER_2)/bin/python install -q --no-deps \
	  -r requirements/suite.txt
	@touch $@

compat: $(SETUP)
	$(RUN) tools/check_compat.py

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
