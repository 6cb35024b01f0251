# Everything a newcomer needs. The environment in .venv is made by bin/python, on the first call and when pins change.
.PHONY: help demo demo-aws up test slow lint bench chaos assets lock clean
.SILENT:

help: ## Show this list
	echo 'Coxswain. Needs Python 3.11 or newer, git and a package index; no root.'
	echo
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-16s %s\n", $$1, $$2 }'

demo: ## From nothing to a cluster on this machine and a real MPI job's output; EXIT=1 stops after it
	exec bin/python manage.py demo $(if $(filter-out 0 no,$(EXIT)),--exit) $(ARGS)

demo-aws: ## The same in an account of an emulated AWS, with a real node behind each instance; as root
	exec bin/python --test -m tests.aws.demo $(if $(filter-out 0 no,$(EXIT)),--exit) $(ARGS)

up: ## Start the portal on this machine; Ctrl-C stops it. ARGS='--port 8001' chooses the port
	exec bin/python manage.py up $(ARGS)

test: ## Run the tests; what the machine lacks is skipped and named. ARGS='-k words' chooses
	exec bin/python --test -m pytest -n auto --maxprocesses 4 $(ARGS)

slow: ## Run the tests that make many nodes, ranks and packages, which take minutes
	exec bin/python --test -m pytest -m slow $(ARGS)

lint: ## Check style, types, imports, templates, migrations and production settings
	exec bin/lint

bench: ## Measure, and print a table
	exec bin/python --test -m pytest -m bench -s $(ARGS)

chaos: ## Kill processes and cut connections, and look for what was lost
	exec bin/python --test -m pytest -m chaos $(ARGS)

assets: ## Write what pages load of Bootstrap and its icons anew, after a template names another class or icon
	exec bin/assets

lock: ## Write the pinned versions anew from pyproject.toml; UPGRADE=1 takes the latest of what it leaves open
	exec bin/lock $(if $(filter-out 0 no,$(UPGRADE)),--upgrade)

clean: ## Remove the environment and caches; var/, with the portal's data, stays
	rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
