#!/usr/bin/env bash
# Installs what Lockstep runs on where it is missing, and says what it did.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

declare -A package=(
	[containerd]=containerd [runc]=runc [iptables]=iptables [conntrack]=conntrack
	[git]=git [ssh]=openssh-client [nsenter]=util-linux [mount]=mount
)
missing=()
for program in containerd runc iptables conntrack git ssh nsenter mount; do
	command -v "$program" >/dev/null 2>&1 || missing+=("${package[$program]}")
done
cni=
for dir in /opt/cni/bin /usr/lib/cni /usr/libexec/cni; do
	[ -x "$dir/ptp" ] && [ -x "$dir/host-local" ] && [ -x "$dir/loopback" ] && cni=$dir
done
[ -n "$cni" ] || missing+=(containernetworking-plugins)
# What only the tests need.
if [ "${1:-}" = test ]; then
	[ -x /bin/busybox ] || [ -x /usr/bin/busybox ] || missing+=(busybox-static)
	command -v curl >/dev/null 2>&1 || missing+=(curl)
	command -v ip >/dev/null 2>&1 || missing+=(iproute2)
	command -v nft >/dev/null 2>&1 || missing+=(nftables)
	command -v mkfs.ext4 >/dev/null 2>&1 || missing+=(e2fsprogs)
	command -v cc >/dev/null 2>&1 && [ -e /usr/include/stdlib.h ] || missing+=(gcc libc6-dev) # for the runc that a test builds
	command -v prometheus >/dev/null 2>&1 || missing+=(prometheus)
fi

if [ ${#missing[@]} -eq 0 ]; then
	echo "deps: everything is here"
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: this system has no apt-get; install these yourself: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "deps: these are missing and only root can install them: ${missing[*]}" >&2
	exit 1
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Only the programs are wanted: no service may start by itself because of this.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "deps: installed ${missing[*]}"
