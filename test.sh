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

log=bin/test.log # stays, until the next run
status=0
# The scenarios take longest and mostly wait, so they come first, and two packages at a time go on beside them: kernel and cluster
# tests load both cores by themselves, and more of them would not keep their timings honest. vet has run already, and without debug
# information the large test programs link in half the time.
go test -count=1 -p 3 -timeout 20m -vet=off -ldflags='-s -w' -v ./lab/script ./... >"$log" 2>&1 || status=$?

passed=$(grep -caE '^\s*--- PASS' "$log" || true)
failed=$(grep -caE '^\s*--- FAIL' "$log" || true)
skipped=$(grep -caE '^\s*--- SKIP' "$log" || true)
# A package can fail without a test that does: it does not build, it panics, it takes too long. And one without any
# verdict was never run.
broken=$(awk '/^ *--- FAIL/ { seen = 1 } /^(ok|\?|FAIL)[ \t]/ { if ($1 == "FAIL" && !seen) print $2; seen = 0 }' "$log")
for package in $(go list ./...); do
	grep -qaE "^(ok|\?|FAIL)\s+$package(\s|\$)" "$log" || broken+=$'\n'"$package (no verdict)"
done
if [ -n "$broken" ]; then
	echo "these packages failed as a whole:" $broken | tee -a "$log"
	failed=$((failed + $(grep -c . <<<"$broken")))
	status=1
fi

# Of passing packages only their lines matter. Of failing ones, what their failed tests said, each by itself: beside it a
# hundred tests that passed would push it out of whatever shows only the end. A panic has no test of its own.
if [ $status -ne 0 ]; then
	awk '/^=== (RUN|CONT|NAME) / { test = $3; next } /^=== PAUSE/ { next }
		/^[ \t]*--- PASS/ { next }
		/^[ \t]*--- FAIL/ { failed[$3] = 1; verdicts[v++] = $0; next }
		/^(ok|\?|FAIL)[ \t]+[^ \t]/ {
			if ($1 == "FAIL") {
				for (name in count) if (name == "" || name in failed) {
					print "=== " (name == "" ? $2 : name)
					for (i = count[name] > 1000 ? count[name] - 1000 : 0; i < count[name]; i++) print said[name, i]
				}
				for (i = 0; i < v; i++) print verdicts[i]
				print
			}
			delete said; delete count; delete failed; v = 0; test = ""; next
		}
		/^(panic|fatal error): / || /^SIG[A-Z]+: / { test = "" }
		{ said[test, count[test]++] = $0 }' "$log" | tail -n 4000
	grep -aE '^\s*--- FAIL' "$log" || true
else
	grep -aE '^ok\s' "$log"
fi
if grep -aE '^(\s*--- SKIP|SKIPPED)' "$log" && [ "${CI:-}" = true ]; then
	echo "a test was skipped, and under CI none may be" >&2
	status=1
fi
echo "$passed passed, $failed failed, $skipped skipped; all of it: $log"
exit $status
