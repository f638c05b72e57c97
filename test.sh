#!/usr/bin/env bash
# The whole suite on this machine. Under CI=true nothing is skipped: a skipped test fails the run.
set -euo pipefail
cd "$(dirname "$0")"
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin" GOFLAGS="${GOFLAGS:-} -trimpath" # as the Makefile has it
./deps.sh test
make -s build lab images
export LOCKSTEP_BIN="$PWD/bin"

unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted (gofmt -w mends it):" $unformatted >&2
	exit 1
fi
go vet ./...

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# Kernel and cluster tests load both cores by themselves: two packages at a time keep their timings honest. vet has run
# already, and without debug information the large test programs link in half the time.
go test -count=1 -p 2 -timeout 12m -vet=off -ldflags='-s -w' -v ./... >"$log" 2>&1 || status=$?

passed=$(grep -cE '^\s*--- PASS' "$log" || true)
failed=$(grep -cE '^\s*--- FAIL' "$log" || true)
skipped=$(grep -cE '^\s*--- SKIP' "$log" || true)
# A package can fail without a test that does: it does not build, it panics, it takes too long. And one without any
# verdict was never run.
broken=$(awk '/^ *--- FAIL/ { seen = 1 } /^(ok|\?|FAIL)[ \t]/ { if ($1 == "FAIL" && !seen) print $2; seen = 0 }' "$log")
for package in $(go list ./...); do
	grep -qE "^(ok|\?|FAIL)\s+$package(\s|\$)" "$log" || broken+=$'\n'"$package (no verdict)"
done
if [ -n "$broken" ]; then
	echo "these packages failed as a whole:" $broken | tee -a "$log"
	failed=$((failed + $(grep -c . <<<"$broken")))
	status=1
fi

# Of passing packages only their lines matter; of failing ones everything. Each ends with its line.
if [ $status -ne 0 ]; then
	awk '/^=== (RUN|PAUSE|CONT|NAME)/ || /^[ \t]*--- PASS/ { next } { lines[n++] = $0 }
		/^(ok|\?|FAIL)[ \t]+[^ \t]/ { if ($1 == "FAIL") for (i = 0; i < n; i++) print lines[i]; n = 0 }
		END { for (i = 0; i < n; i++) print lines[i] }' "$log" | tail -n 4000
	grep -E '^\s*--- FAIL' "$log" || true
else
	grep -E '^ok\s' "$log"
fi
if grep -E '^(\s*--- SKIP|SKIPPED)' "$log" && [ "${CI:-}" = true ]; then
	echo "a test was skipped, and under CI none may be" >&2
	status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
