# Lockstep. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Static, without cgo, and the same bytes whatever the folder; tests are built alike, so that all share one build cache.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath
GOBUILD := go build -ldflags '-s -w -X lockstep/daemon/version.Version=$(VERSION)'
# Packages that are linked and hardly ever run (docs/benchmarks.md) are not inlined, which makes the program 2.5 MiB smaller.
COLD := $(addprefix github.com/,antlr4-go cilium/ebpf cloudflare/circl container-storage-interface/spec containerd/containerd fxamacker/cbor \
	godbus/dbus google/cel-go google/gnostic-models google/go-cmp go-openapi grpc-ecosystem/grpc-gateway json-iterator pelletier/go-toml \
	ProtonMail/go-crypto spf13 vishvananda/netlink) filippo.io/age filippo.io/hpke \
	go.etcd.io/etcd/api/v3/etcdserverpb/gw go.etcd.io/etcd/etcdutl go.etcd.io/etcd/server/v3/embed go.etcd.io/etcd/server/v3/etcdserver/api \
	go.opentelemetry.io/otel/sdk \
	go.yaml.in/yaml golang.org/x/crypto/ssh google.golang.org/genproto gopkg.in/go-jose k8s.io/apiserver \
	k8s.io/client-go/applyconfigurations k8s.io/client-go/gentype k8s.io/client-go/kubernetes k8s.io/client-go/tools/clientcmd \
	k8s.io/component-base k8s.io/kube-openapi k8s.io/kubernetes/pkg/printers k8s.io/kubernetes/pkg/registry k8s.io/kubernetes/plugin \
	k8s.io/metrics sigs.k8s.io/structured-merge-diff \
	$(addprefix k8s.io/api/,admission admissionregistration apidiscovery apiserverinternal apps authentication \
	authorization autoscaling batch certificates events extensions flowcontrol imagepolicy lifecycle networking node policy rbac resource \
	scheduling storage storagemigration) \
	$(addprefix k8s.io/kubernetes/pkg/apis/,admissionregistration apps/v1beta1 apps/v1beta2 authentication authorization autoscaling \
	certificates extensions flowcontrol imagepolicy lifecycle networking node policy rbac resource scheduling storage storagemigration)
SMALL := $(COLD:%=-gcflags=%/...=-l)
EXAMPLE ?= manifests-example
export PATH := $(PATH):/usr/sbin:/sbin:/usr/local/go/bin

.PHONY: help deps build run check test test-corpus test-vm test-arm64 lab-test verify bench lab images faults soak fuzz FORCE

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /\1\t/' | while IFS=$$'\t' read -r t d; do printf '  %-12s %s\n' "$$t" "$$d"; done

deps: ## install what Lockstep runs on: containerd, runc, iptables, conntrack, CNI plugins, git, openssh
	@./deps.sh

build: bin/lockstep ## build bin/lockstep, static, its version from git

lab: bin/lockstep bin/lockstep-lab ## build bin/lockstep-lab: a cluster of several hosts on this machine

bin/lockstep: FORCE
	@$(GOBUILD) $(SMALL) -o $@ .

bin/lockstep-arm64: FORCE
	@GOARCH=arm64 $(GOBUILD) $(SMALL) -o $@ .

bin/lockstep-lab: FORCE
	@$(GOBUILD) -o $@ ./lab/lockstep-lab

images: ## build the example's images into bin/images, without any registry
	@mkdir -p bin/images
	@$(GOBUILD) -o bin/example/ ./manifests-example/images/web ./manifests-example/images/api
	@go run ./manifests-example/images/build bin/images harbour-web=bin/example/web harbour-api=bin/example/api >/dev/null

run: deps build images ## run the example on this machine: control plane, node and all
	@bin/lockstep up $(EXAMPLE) --images bin/images

check: ## the inner loop: compile, vet, tests with few seeds; no root, no network, under a minute from a warm cache
	@./check.sh

test: deps ## the whole suite; as root, for real
	@./test.sh

test-corpus: lab ## read public manifests ($LOCKSTEP_CORPUS, a folder), and run two applications of them in the lab
	@LOCKSTEP_BIN=$(CURDIR)/bin go test -count=1 -tags corpus -run Corpus ./sync/... ./lab/script

test-vm: build images ## Debian 13 in an emulated machine without a network card: systemd, cgroup v2, newer containerd
	@./lab/vm/run.sh

test-arm64: bin/lockstep-arm64 ## the control plane's build for arm64, run under qemu-user
	@./lab/vm/arm64.sh

lab-test: deps lab ## run the lab's scenarios, or the one that RUN names: make lab-test RUN=image
	@LOCKSTEP_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 20m ./lab/script -run '^TestScenarios$$/^$(RUN)$(if $(RUN),$$)'

faults: deps lab ## break a lab in 160 seeded ways, and print how soon each is repaired and what it cost
	@LOCKSTEP_BIN=$(CURDIR)/bin LOCKSTEP_FAULTS=$${LOCKSTEP_FAULTS:-20} go test -count=1 -v -timeout 60m ./lab/faults -run '^TestFaults$$'

SOAK := $(if $(MINUTES),$(MINUTES)m,$(or $(HOURS),1)h)

soak: deps lab ## break three servers and three nodes at random for HOURS=1 or MINUTES, after each fault once (TABLE=1)
	@LOCKSTEP_BIN=$(CURDIR)/bin LOCKSTEP_TABLE=$(TABLE) LOCKSTEP_SOAK=$(SOAK) go test -count=1 -v -timeout 0 -tags soak ./lab/faults -run '^TestSurvival$$'

fuzz: ## run every fuzz target for a minute
	@./fuzz.sh

verify: ## format, vet, lint, look for known vulnerabilities, tidy, write goldens anew; fail if the tree changed
	@./verify.sh

bench: deps build ## measure against bounds taken in the same run; writes bench/results.json
	@go run ./bench

FORCE:
