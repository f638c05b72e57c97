#!/usr/bin/env bash
# Formats, vets, lints, looks for known vulnerabilities, tidies and writes golden files anew; fails on what is found, and
# if any of it changed the tree.
set -euo pipefail
cd "$(dirname "$0")"
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin" CGO_ENABLED=0

tree() { git diff HEAD | sha256sum; git status --porcelain; }
before=$(tree)
status=0
check() {
	echo "verify: $1"
	shift
	"$@" || status=1
}

# What the vulnerability database says changes without the tree, and asking it needs the network. So a database that
# cannot be reached is told, and is neither a failure nor a pass.
vulnerabilities() {
	local out code=0
	out=$(go tool govulncheck ./... 2>&1) || code=$?
	case $code in
	0) ;;
	3) echo "$out" && return 1 ;;
	*)
		if grep -q 'fetching vulnerabilities' <<<"$out"; then
			echo "verify: NOT CHECKED for known vulnerabilities: the database cannot be reached (GOVULNDB names another):"
			tail -n 1 <<<"$out"
		else
			echo "$out" && return 1
		fi
		;;
	esac
}

# What the last release stored, in store/ and daemon/etcd/, must stay as it is: it proves that upgrades write nothing.
goldens() {
	local packages
	packages=$(git ls-files '*_test.go' | xargs grep -lE 'flag\.Bool\("update"|"lockstep/(internal/golden|reconcilers/looptest)"' | xargs -n 1 dirname | sort -u | grep -vxE 'store|daemon/etcd' | sed 's,^,./,')
	# shellcheck disable=SC2086
	go test -count=1 -p 2 $packages -update >/dev/null
}

check gofmt gofmt -l -w $(git ls-files '*.go')
check vet go vet -tags corpus ./...
check staticcheck go tool staticcheck -tags corpus ./...
check govulncheck vulnerabilities
check 'go mod tidy' go mod tidy
check 'go mod tidy, of the module for kube-state-metrics' go -C lab/kube-state-metrics mod tidy
check 'go mod tidy, of the module for Prometheus' go -C lab/prometheus mod tidy
check 'go mod tidy, of the module for runc' go -C lab/runc mod tidy
check 'golden files' goldens
if [ "$(tree)" != "$before" ]; then
	echo "verify: the tree changed:" >&2
	git status --short >&2
	git --no-pager diff --stat >&2
	status=1
fi
[ $status -eq 0 ] && echo "verify: ok"
exit $status
