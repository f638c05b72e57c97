#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other: fuzz.sh [DURATION], a minute where none is given.
set -euo pipefail
cd "$(dirname "$0")"
for file in $(git ls-files '*_test.go' | xargs grep -lE '^func Fuzz'); do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file"); do
		echo "== $target in $(dirname "$file")"
		# Go would spend the whole minute on making one long input shorter.
		go test -fuzzminimizetime 1s -run '^$' -fuzz "^$target\$" -fuzztime "${1:-1m}" "./$(dirname "$file")"
	done
done
