#!/usr/bin/env bash
# The whole suite on this machine. Under CI=true nothing is skipped: a skipped test fails the run.
set -euo pipefail
cd "$(dirname "$0")"
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"
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
# Kernel and cluster tests load both cores by themselves: two packages at a time keep their timings honest.
go test -count=1 -p 2 -timeout 12m -v ./... >"$log" 2>&1 || status=$?
# Of passing tests only the packages' lines matter; of failing ones everything.
if [ $status -ne 0 ]; then
	grep -vE '^(=== (RUN|PAUSE|CONT|NAME)|\s*--- PASS)' "$log" | tail -n 400
else
	grep -E '^(ok|FAIL|\?)\s' "$log" | grep -v 'no test files' || true
fi
passed=$(grep -cE '^\s*--- PASS' "$log" || true)
failed=$(grep -cE '^\s*--- FAIL' "$log" || true)
skipped=$(grep -cE '^\s*--- SKIP' "$log" || true)
if [ "$skipped" -gt 0 ]; then
	grep -E '^\s*--- SKIP' "$log"
	if [ "${CI:-}" = true ]; then
		echo "a test was skipped, and under CI none may be" >&2
		status=1
	fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
