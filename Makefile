# Targets for people and for CI; `make help` lists them.
.POSIX:
.PHONY: help build demo test test-vm soak bench lint check generate man clean

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# Static, and without paths of the machine in it.
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-10s %s\n", $$1, $$2}' Makefile

build: ## bin/berth and bin/berth-init
	$(BUILD) -o bin/ ./cmd/berth ./cmd/berth-init

demo: build ## run a container from an image that is pulled from a registry on loopback
	script/packages demo
	script/demo

test: ## every test; root, and the packages it needs are installed
	script/packages test
	BERTH_TEST_REQUIRE_ROOT=1 go test -race -timeout 20m ./...

test-vm: ## tests in virtual machines: cgroup v2 alone, cgroup v1 alone, SELinux
	script/vm

soak: ## the tests with larger counts, for hours
	script/packages test
	BERTH_TEST_REQUIRE_ROOT=1 BERTH_TEST_SOAK=1 go test -p 1 -timeout 6h ./internal/crashtest ./internal/e2e ./containerizer/mesos ./provisioner/...

bench: ## berth beside containerd, docker, podman, buildah, skopeo+umoci, crun, runc, rm, cp and bare system calls (bench/floor.c)
	script/packages bench
	BERTH_BENCH_CHARTS=$(CURDIR)/docs/benchmarks go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./internal/bench

lint: ## formatting, vet, staticcheck, the direction of imports, other systems
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'gofmt these files'; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test ./internal/imports
	GOOS=darwin go build ./...

check: lint test test-vm ## what CI runs, but for the demo

man: ## the manual pages in man/, of the help of the commands; root, for its defaults
	go test -count=1 -run TestTheManual ./cmd/berth -update

generate: ## code that is generated from other files
	script/packages test
	go generate ./...

clean: ## remove what was built
	rm -rf bin
