SHELL := /bin/bash -o pipefail
GO ?= go
# Every module of the repository: parts that only tests need have their own.
MODULES := $(sort $(dir $(shell find . -name go.mod -not -path '*/testdata/*' -not -path './.cache/*')))
# Nobody debugs these programs, and to link them without DWARF takes a third less.
TESTFLAGS ?= -timeout 25m -ldflags=-w
# A program with the race detector sleeps for a second before it ends, each of the
# packages and of the processes that they start.
export GORACE ?= atexit_sleep_ms=10
# Tests of these packages take the longest, so they begin first.
SLOWEST := ./worker ./sandbox/docker ./sandbox/local ./worker/bootstrap ./internal/devdb ./examples/quickstart ./internal/bench
# What runs in many goroutines of an application's process. The detector makes each of
# these three times as dear, and would see little in the rest: engines, clusters and
# the programs in sandboxes, which are built without it.
RACE := ./workflow/... ./worker/... ./identity/... ./audit/... ./internal/... ./sandbox ./sandbox/launcher/...

.PHONY: test race needs build cross lint generate matrix cases

# Installs what is missing, runs all tests, ends with the list of skips.
test: needs
	@$(GO) run ./internal/testenv/testreport -flags '$(TESTFLAGS)' -first '$(SLOWEST)' $(MODULES)

race: needs
	@$(GO) run ./internal/testenv/testreport -flags '-race $(TESTFLAGS)' -first ./worker -packages '$(RACE)' .

needs:
	@sh internal/testenv/needs.sh

build:
	$(GO) build ./...

# The library builds wherever its users develop; only local sandboxes are Linux's, and
# only they depend on the processor.
cross:
	@set -e; for target in linux/arm64 darwin/arm64 windows/amd64; do \
		export CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/}; \
		echo "build $$target"; \
		$(GO) build ./...; \
		[ $$GOOS != linux ] || continue; \
		echo "vet $$target"; \
		$(GO) vet ./...; \
		for m in sandbox/kubernetes sandbox/lambda identity/awssecrets; do (cd $$m && $(GO) vet ./...); done; \
	done

GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CURDIR)/.cache/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

$(GOLANGCI):
	GOBIN=$(dir $@) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

lint: $(GOLANGCI)
	$(GOLANGCI) run ./...
	cd sandbox/kubernetes && $(GOLANGCI) run ./...
	cd sandbox/lambda && $(GOLANGCI) run ./...
	cd identity/awssecrets && $(GOLANGCI) run ./...

generate:
	sh internal/rpc/generate.sh

# What becomes of each case of sandboxtest, on these backends: docs/sandboxes.md.
BACKENDS ?= local docker
matrix:
	$(GO) run ./sandbox/sandboxtest/matrix $(BACKENDS)

# What holds each way to get at a secret: docs/identity-cases.md.
cases:
	$(GO) run ./internal/identitycases > docs/identity-cases.md.new && mv docs/identity-cases.md.new docs/identity-cases.md
