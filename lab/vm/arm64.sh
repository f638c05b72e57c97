#!/usr/bin/env bash
# Runs bin/lockstep-arm64 on another processor under qemu-user, in a network namespace that has nothing but loopback:
# version, validate, and a daemon that follows the example, is killed and started again. Containers it cannot run: the
# kernel is not arm64's.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
[ "${1:-}" = inside ] || exec unshare --net -- "$0" inside
cd "$(dirname "$0")/../.."

emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || {
	echo "test-arm64: qemu-aarch64-static is missing: apt-get install qemu-user-static" >&2
	exit 1
}
dir=$(mktemp -d) daemon=
trap 'exit 130' INT TERM
trap '[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true; rm -rf "$dir"' EXIT

die() {
	echo "test-arm64: FAILED: $*" >&2
	tail -n 50 "$dir/log" >&2 2>/dev/null || true
	exit 1
}

# On an idle machine each takes seconds.
lockstep() { timeout 300 nice -n 15 "$emulator" bin/lockstep-arm64 "$@"; }

start() {
	nice -n 15 "$emulator" bin/lockstep-arm64 daemon --data-dir "$dir/data" --run-dir "$dir/run" --listen 127.0.0.1:6443 \
		--source example=manifests-example >>"$dir/log" 2>&1 &
	daemon=$!
	local until=$((SECONDS + 300))
	until [ "$(curl -sk --max-time 10 https://127.0.0.1:6443/readyz)" = ok ]; do
		kill -0 "$daemon" 2>/dev/null || die "the daemon has ended"
		[ $SECONDS -lt $until ] || die "the daemon is not ready after 300 s"
		sleep 1
	done
	# Everything is applied, and what is left wants a node: for that status ends with 3, and soon with 2.
	until lockstep status --run-dir "$dir/run" >"$dir/status" || [ $? -eq 2 ] && grep -q 'no nodes available to schedule pods' "$dir/status"; do
		[ $SECONDS -lt $until ] || die "the example does not wait for a node after 300 s: $(cat "$dir/status")"
		sleep 1
	done
	grep -q 'ConfigMap harbour/ships *healthy' "$dir/status" || die "status shows: $(cat "$dir/status")"
}

ip link set lo up
echo "test-arm64: $(lockstep version), $("$emulator" --version | head -n 1)"
lockstep validate manifests-example || die "validate"
start
curl -sk https://127.0.0.1:6443/version | grep -q '"platform": *"linux/arm64"' ||
	die "the API says it is $(curl -sk https://127.0.0.1:6443/version)"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
start
if grep -E 'level=ERROR|verb=(update|delete)' "$dir/log"; then die "the log has what it should not"; fi
[ "$(grep -c 'verb=create' "$dir/log")" = 7 ] || die "7 objects are to be created once"
kill "$daemon"
wait "$daemon" || die "the daemon ends with $?"
daemon=
echo "test-arm64: version, validate, the daemon (ready, the example applied, killed, started again, stopped) and status work"
