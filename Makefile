# Cloister's build. Plain `make` lists what can be made.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

GO ?= go
BIN := bin
export CLOISTER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cloister

include tests/cluster/cluster.mk

.PHONY: help
help: ## this list
	@echo "Cloister: sealed Slurm jobs on locked nodes. Targets:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: deps
deps:
	@tests/deps

.PHONY: demo
demo: deps ## the main job on a real cluster, told as a story (3 to 7 minutes, without what is downloaded and built once)
	$(GO) run ./tests/demo

.PHONY: test
test: deps ## all tests, also on the real cluster (about 40 minutes; needs root)
	$(MAKE) -j 2 -O lint test-unit plugin-test
	$(MAKE) test-cluster
	@echo "make test: everything passed"

.PHONY: test-unit
test-unit: deps ## the tests that need no cluster (about 4 minutes); prints what taken keys open
	$(GO) test -timeout 15m ./...
	$(GO) test -count 1 -v -run 'NoVolume$$' ./tests/keys

.PHONY: test-cluster
test-cluster: deps ## the tests on the real cluster alone
	$(GO) test -tags cluster -timeout 80m -count 1 -p 5 ./tests/cluster/ ./tests/guest/ ./tests/e2e/ ./tests/attacks/ ./tests/faults/

.PHONY: test-full
test-full: deps ## what make test leaves out for its time: Slurm's verbs compared, nodes that are not fit, a job's ends, TPMs, the network under load, the canary
	$(GO) test -tags cluster,full -timeout 120m -count 1 -p 1 -run 'SlurmsVerbs|NotFit|FreshBoot|Habits|UnderLoad|HoweverAJobEnds|RunsNotOneLine|OutlivesSlurms|Reboot|Preempted|Suspend|OutOfMemory|NoKillEnds|FileServerThatHangs|FileServerHangs|LostPower|NodesTPM' ./tests/e2e/
	$(GO) test -tags cluster -timeout 60m -count 1 ./tests/canary/

.PHONY: bench
bench: deps ## what Cloister costs, measured side by side (ONLY=slurm for a part)
	$(if $(filter-out node,$(ONLY)),,$(MAKE) -s $(VAULT))
	$(GO) run ./tests/bench -vault $(VAULT) $(if $(ONLY),-only $(ONLY))

VAULT := $(CLOISTER_CACHE)/vault/vault
$(VAULT): tests/vault/cli/build.sh tests/vault/cli/main.go tests/vault/go.mod
	@echo 'Building the command line of HashiCorp Vault: a quarter of an hour the first time.'
	tests/vault/cli/build.sh $@ $(dir $@)work

.PHONY: conformance
conformance: $(VAULT) ## the key server's tests against a real HashiCorp Vault, and its command line against both; built first (a quarter of an hour the first time)
	KMS_CLI=$(VAULT) $(GO) -C tests/vault run -mod=mod . $(GO) -C $(CURDIR) test -timeout 10m -count 1 ./kms

.PHONY: attacks
attacks: deps ## every attack, refused and, without its defence, successful; ATTACK=9 or 9,14 for some (about an hour)
	$(GO) run -tags mutants ./tests/attacks/cmd/attacks $(if $(ATTACK),-attack $(ATTACK))

.PHONY: canary
canary: deps ## search disks, memory, traffic, logs for what secure jobs held (a few minutes)
	$(GO) run ./tests/canary/run

.PHONY: faults
faults: deps ## noded killed, failing and hanging at each call of a session (many hours; FOR=2h for a part, the next run goes on; LANES=3 on three clusters at once)
	$(GO) run ./tests/faults/cmd/faults $(if $(FOR),-for $(FOR)) $(if $(LANES),-lanes $(LANES)) $(if $(ONLY),-only '$(ONLY)')

MINUTES ?= $(if $(SESSIONS),600,30)
.PHONY: soak
soak: deps ## random secure jobs, kills, reboots and power cuts on both secure nodes for MINUTES=30 (SEED=n deals the same again, CALM=1 lets noded live; SESSIONS=1000 for that many small jobs)
	$(GO) run ./tests/soak/cmd/soak -for $(MINUTES)m $(if $(SEED),-seed $(SEED)) $(if $(CALM),-calm) $(if $(SESSIONS),-sessions $(SESSIONS))

FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: deps ## every fuzz test in turn, Go's and the plugin's in C, FUZZTIME each (default 20s)
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done
	@t=$(FUZZTIME); t=$${t//h/*3600+}; t=$${t//m/*60+}; t=$${t//s/+}; \
	  $(MAKE) -s -C cgo/plugin plugin-fuzz SECONDS=$$(($${t}0)) OUT=$(abspath $(BIN))/plugin

# staticcheck is run from the module proxy at a fixed version; it is not a
# dependency of the module.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
.PHONY: lint
lint: deps ## gofmt, go vet, staticcheck, the generated assembly is up to date, and the client is built for every system
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags cluster,guest ./tests/... ./noded/...
	$(GO) vet -tags cluster,full ./tests/e2e
	$(GO) vet -tags mutants ./...
	$(GO) run $(STATICCHECK) ./...
	for system in darwin windows; do CGO_ENABLED=0 GOOS=$$system $(GO) build -o /dev/null ./cmd/cloister; done
	$(GO) vet -C volume/asm ./...
	$(GO) test -C volume/asm -count 1 ./...

# The plugin is built for one release of Slurm: SLURM_HEADERS is the directory
# that holds its slurm/spank.h.
SLURM_HEADERS ?= /usr/include
CLIENT := CGO_ENABLED=0 $(GO) build -trimpath
# Without the commit in it the same noded is the same file, which tests/faults asks.
NODE := $(GO) build -trimpath -buildvcs=false

.PHONY: build
build: ## the binaries and the plugin, into bin/ (SLURM_HEADERS=DIR for another Slurm)
	@mkdir -p $(BIN)
	$(CLIENT) -o $(BIN)/ ./cmd/cloister ./cmd/cloister-kms
	$(NODE) -o $(BIN)/ ./cmd/cloister-noded
	$(MAKE) -s -C cgo/plugin plugin OUT=$(abspath $(BIN)) SLURM_HEADERS=$(SLURM_HEADERS)
	$(MAKE) -s submit-library

# What the plugin loads in sbatch, srun and salloc with --secure: Go, so it is
# built apart, and its C header is of no use to anyone.
.PHONY: submit-library
submit-library:
	@mkdir -p $(BIN)
	$(GO) build -trimpath -buildmode=c-shared -ldflags='-s -w' -o $(BIN)/cloister-submit.so ./spank/library && rm -f $(BIN)/cloister-submit.h

.PHONY: build-mutants
build-mutants:
	@mkdir -p $(BIN)
	$(CLIENT) -tags mutants -o $(BIN)/ ./cmd/cloister ./cmd/cloister-kms
	$(NODE) -tags mutants -o $(BIN)/ ./cmd/cloister-noded
	$(MAKE) -s -C cgo/plugin plugin-mutants OUT=$(abspath $(BIN))/plugin SLURM_HEADERS=$(SLURM_HEADERS)
	cp $(BIN)/plugin/mutants/cloister.so $(BIN)/plugin/mutants/cloister-secure.so $(BIN)/

.PHONY: plugin-test
plugin-test: deps
	$(MAKE) -s -C cgo/plugin plugin-test OUT=$(abspath $(BIN))/plugin SLURM_HEADERS=$$($(GO) run ./tests/cluster/cmd/cluster image)/include

.PHONY: clean
clean: ## remove bin/ (the image cache stays: CLOISTER_CACHE)
	rm -rf $(BIN)
