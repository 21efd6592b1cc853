# Everything runs in a local .venv that the first target builds for itself: Python >= 3.11 and make suffice.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What tests, lint and the classroom need beside it: ray, dask, nbgrader with JupyterLab, mypy and the like.
DEV_STAMP := $(VENV)/.installed-dev
PORT ?= 8000
PYTEST_ARGS ?=
export RADIN_CACHE ?= $(CURDIR)/_build/cache

# Without a word from you: the first Python on the path that is new enough, else python3 and its clear error.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)

# `make book BUDGET=8` passes on what is set, as --budget 8.
PARAMETERS := BUDGET PRIOR NUM_CANDIDATES SEED SEEDS ZOO SOURCE INGREDIENTS DATA_ROOT DEVICE QUICK
BOOK_OPTIONS = $(if $(BUDGET),--budget '$(BUDGET)') $(if $(PRIOR),--prior '$(PRIOR)') \
	$(if $(NUM_CANDIDATES),--num-candidates '$(NUM_CANDIDATES)') $(if $(SEED),--seed '$(SEED)') \
	$(if $(SEEDS),--seeds '$(SEEDS)') $(if $(SOURCE),--source '$(SOURCE)') \
	$(if $(INGREDIENTS),--ingredients '$(INGREDIENTS)') $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)') \
	$(if $(ZOO),--zoo '$(ZOO)') $(if $(DEVICE),--device '$(DEVICE)') $(if $(QUICK),--quick '$(QUICK)')

# `make rerun` takes a list for some of them, and any list as GRID="seed=0,1,2". SEEDS is the parameter `seeds`.
RERUN_OPTIONS = $(if $(BUDGETS),--vary budget '$(BUDGETS)') $(if $(PRIORS),--vary prior '$(PRIORS)') \
	$(if $(ZOOS),--vary zoo '$(ZOOS)') $(if $(GRID),--grid '$(GRID)')
JOBS_OPTION = $(if $(JOBS),--jobs '$(JOBS)')

RERUN_ONLY := CHAPTER BUDGETS PRIORS ZOOS GRID

CLASSROOM_ONLY := HIDDEN_SEED BY_STUDENT TIMEOUT SANDBOX

# A misspelt variable must not pass in silence. (make writes a blank inside a value as backslash, blank.)
VARIABLES := $(PARAMETERS) $(RERUN_ONLY) JOBS FRESH SUBMISSIONS $(CLASSROOM_ONLY) PORT PYTHON PYTEST_ARGS ALL UPGRADE RADIN_CACHE RADIN_DATA CHROMIUM REPOSITORY
NOTHING :=
BLANK := $(NOTHING) $(NOTHING)
GIVEN := $(foreach word,$(subst \$(BLANK),_,$(MAKEOVERRIDES)),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
ifneq ($(filter-out $(VARIABLES),$(GIVEN)),)
$(error unknown variable $(filter-out $(VARIABLES),$(GIVEN)); this Makefile knows $(VARIABLES))
endif
ifeq ($(filter rerun,$(MAKECMDGOALS)),)
ifneq ($(filter $(RERUN_ONLY),$(GIVEN)),)
$(error $(filter $(RERUN_ONLY),$(GIVEN)) belongs to make rerun, which runs one chapter many times)
endif
endif

# Nothing is installed for a class that is not named.
GRADING := $(filter grade leaderboard,$(MAKECMDGOALS))
ifneq ($(GRADING),)
ifeq ($(strip $(SUBMISSIONS)),)
$(error name the folder of submissions: make $(firstword $(GRADING)) SUBMISSIONS=folder)
endif
endif

.PHONY: help book pdf rerun test serve assignments grade leaderboard bench zoos lint pins clean
.DEFAULT_GOAL := help

help: ## list these targets
	@echo 'make TARGET [VARIABLE=value ...]'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'
	@echo 'The notebooks take $(PARAMETERS), as in: make book BUDGET=8 SEED=3'

book: $(STAMP) ## build the book, and run the notebooks that changed (FRESH=1: all of them); prints the path of its index.html
	@$(BIN)/python book/tools/make.py $(BOOK_OPTIONS) $(if $(FRESH),--fresh '$(FRESH)') $(JOBS_OPTION)

pdf: $(STAMP) ## print the book as one PDF with Chromium (CHROMIUM=its path); builds the book if there is none
	@[ -f _build/html/index.html ] || $(MAKE) --no-print-directory book
	@$(BIN)/python book/tools/book_pdf.py

rerun: $(STAMP) ## run one chapter many times: CHAPTER=04_cifar10 BUDGETS="1 2 4 8" PRIORS="0 1"
	@$(BIN)/python book/tools/rerun_grid.py '$(CHAPTER)' $(BOOK_OPTIONS) $(RERUN_OPTIONS) $(JOBS_OPTION)

# Some tests side by side: each takes one thread. The last -n wins, as in PYTEST_ARGS="-n 0 -k soup".
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(DEV_STAMP) ## run the tests; ALL=1 adds those of the built book and others that take minutes each (PYTEST_ARGS="-k soup" for some)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(if $(filter-out 0,$(ALL)),--all) $(PYTEST_ARGS)

serve: $(STAMP) ## serve the book on http://localhost:8000 (another PORT=...); builds it if there is none
	@[ -f _build/html/index.html ] || $(MAKE) --no-print-directory book
	@echo 'http://localhost:$(PORT) (Ctrl-C ends it)'
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# The classroom's commands see only what is committed and what SUBMISSIONS holds; the teacher's page explains them.
CLASSROOM = $(BIN)/python notebooks/assignments/classroom.py
GRADED = '$(SUBMISSIONS)' $(if $(HIDDEN_SEED),--hidden-seed '$(HIDDEN_SEED)') \
	$(if $(TIMEOUT),--timeout '$(TIMEOUT)') $(if $(SANDBOX),--sandbox '$(SANDBOX)')

assignments: $(DEV_STAMP) ## generate the students' version of every assignment
	@$(CLASSROOM) generate

grade: $(DEV_STAMP) ## grade a class: SUBMISSIONS=folder, one folder for each student (HIDDEN_SEED=1 BY_STUDENT=1 TIMEOUT=60 SANDBOX=bwrap)
	@$(CLASSROOM) grade $(GRADED) $(if $(filter-out 0,$(BY_STUDENT)),--by-student)

leaderboard: $(DEV_STAMP) ## rank a class by the regret of its recipes in assignment 3: SUBMISSIONS=folder
	@$(CLASSROOM) leaderboard $(GRADED)

bench: $(STAMP) ## measure stage 1 (20 GB of memory, some 6 minutes); the table goes to the book, too
	@$(BIN)/python tests/benchmarks/stage_one.py

zoos: $(STAMP) ## train the shipped zoos and evaluate all their soups again (hours; ZOO=cifar10 for one of them)
	@$(BIN)/python -m radin.experiments.zoos.finetuned $(or $(ZOO),all) $(if $(DEVICE),--device '$(DEVICE)')

lint: $(DEV_STAMP) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --quiet

# The pins stay as they are where pyproject.toml still admits them; UPGRADE=1 moves them all to the newest.
pins: $(DEV_STAMP) ## pin again after a change of dependencies: both requirements files and environment.yml
	@mkdir -p _build
	@cat requirements.txt requirements-dev.txt > _build/pins.txt
	@$(COMPILE) --extra book --extra dev $(if $(UPGRADE),--upgrade) -o _build/pins.txt
	@$(COMPILE) --extra book --constraint _build/pins.txt -o requirements.txt
	@$(BIN)/python book/tools/pins.py _build/pins.txt

clean: ## remove _build (book, stage, trained zoos) and every tool's cache; .venv stays
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The marker tells an installation that was killed half-way, which is begun afresh, from one that pip ended
# itself. The packages come with the hashes of the requirements files; the project itself is built by the
# setuptools pinned there, hence no build isolation.
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check
PIP_FAILED = { rm -f $(VENV)/.installing; echo "error: pip could not install the packages; pip's own message is above"; exit 1; }

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: $(PYTHON) is not a Python 3.11 or newer; name one, as in: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: the package python3-venv)'; exit 1; }
	@rm -f $(STAMP) $(DEV_STAMP)
	@if [ -e $(VENV)/.installing ] || ! [ -x $(BIN)/python ]; then \
		echo 'creating $(VENV) with $(PYTHON)'; $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(VENV)/.installing
	@echo 'installing what the book needs into $(VENV) (the first time this takes minutes)'
	@$(PIP) --require-hashes -r requirements.txt && $(PIP) --no-deps --no-build-isolation -e . || $(PIP_FAILED)
	@rm -f $(VENV)/.installing
	@touch $(STAMP)

# While this runs there is no stamp at all: if it is killed, the rule above begins afresh.
$(DEV_STAMP): requirements-dev.txt $(STAMP)
	@rm -f $(STAMP) $(DEV_STAMP)
	@touch $(VENV)/.installing
	@echo 'installing what tests and the classroom need into $(VENV)'
	@$(PIP) --require-hashes -r requirements.txt -r requirements-dev.txt || $(PIP_FAILED)
	@rm -f $(VENV)/.installing
	@touch $(STAMP) $(DEV_STAMP)
