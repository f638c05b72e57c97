#!/usr/bin/env bash
# The inner loop: what can be told without root, without a network and within a minute on two cores, once the build cache
# is warm. It compiles and vets everything; of the tests it runs, with few seeds, those of the packages that stay when two
# kinds are left out: that need root, and that link another program. What is left out is `make test`'s, and told at the end.
#
#   check.sh          checks
#   check.sh list     prints the packages that have tests: "run PACKAGE", or "left PACKAGE REASON"
set -euo pipefail
cd "$(dirname "$0")"
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin" CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath" # as the Makefile has it
export GOPROXY=off GOTOOLCHAIN=local                                                                 # what is not here is not fetched

# These are programs of their own, which tests link to start them. Such a test binary takes long to link, and starting
# them, longer.
programs='go.etcd.io/etcd/server/v3/embed=etcd github.com/go-git/go-git/v5=Git k8s.io/kubectl/pkg/cmd=kubectl'

list() {
	local root
	root=$(grep -rlE '\b(asroot|programs)\.Main\(' --include='*_test.go' . | xargs -n 1 dirname | sort -u | sed 's,^\./,lockstep/,')
	go list -test -f '{{if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./... | grep -E '^[^ ]+\.test ' |
		awk -v root="$root" -v programs="$programs" '
		BEGIN {
			n = split(root, r, "\n"); for (i = 1; i <= n; i++) needs[r[i]] = 1
			n = split(programs, p, " "); for (i = 1; i <= n; i++) { split(p[i], part, "="); name[part[1]] = part[2] }
		}
		{
			package = substr($1, 1, length($1) - 5); why = needs[package] ? "needs root" : ""
			for (i = 2; i <= NF && !why; i++) if ($i in name) why = "links " name[$i]
			print (why ? "left " package " " why : "run " package)
		}'
}

if [ "${1:-}" = list ]; then
	list
	exit
fi

began=$SECONDS status=0
say() { printf 'check: %3d s  %s\n' $((SECONDS - began)) "$1"; }

say 'gofmt'
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted (gofmt -w mends it):" $unformatted >&2
	status=1
fi
say 'build'
# Everything but the programs, whose linking takes half as long as all the rest; vet sees that they would compile.
# shellcheck disable=SC2046
go build $(go list -f '{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}' ./...)
say 'vet'
go vet ./... || status=1

packages=$(list)
say "tests of $(grep -c ^run <<<"$packages") packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Without debug information the large test programs link in half the time; vet has run already.
# shellcheck disable=SC2046
go test -short -p 4 -vet=off -ldflags='-s -w' -v $(awk '$1 == "run" { print $2 }' <<<"$packages") >"$log" 2>&1 || status=1
# Of tests that passed nothing is shown, of others what they said.
[ $status -eq 0 ] || awk '
	/^=== / { next }
	/^(--- (PASS|SKIP)|PASS$|ok[ \t]|\?)/ { said = ""; failed = 0; next }
	/^ / && failed { print; next }
	{ said = said $0 "\n"; failed = 0 }
	/^(--- FAIL|FAIL|panic:|#)/ { printf "%s", said; said = ""; failed = /^--- FAIL/ }
	END { printf "%s", said }' "$log"
say "$(grep -cE '^\s*--- PASS' "$log" || true) passed, $(grep -cE '^\s*--- FAIL' "$log" || true) failed"

echo "left to make test:"
awk '$1 == "left" { package = $2; $1 = $2 = ""; n[$0]++; list[$0] = list[$0] " " substr(package, 10) }
	END { for (why in n) printf " %s, %d packages:%s\n", why, n[why], list[why] }' <<<"$packages" | sort | fold -s -w 120 | sed 's/^\([^ ]\)/    \1/'
skipped=$(sed -nE 's/^\s*--- SKIP: (\S+).*/\1/p' "$log" | sort)
[ -z "$skipped" ] || echo "  skipped, $(wc -l <<<"$skipped") tests: "$skipped
echo '  everywhere: nine tenths of what is tried with many seeds, and linking the programs'
[ $status -eq 0 ] && say ok
exit $status
