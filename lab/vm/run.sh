#!/usr/bin/env bash
# Boots Debian 13 in an emulated machine without a network card and runs smoke.sh there: as Debian ships it, and with
# containerd and runc of the next release. $LOCKSTEP_VM names one of the two, trixie or newer. Needs root, Debian's mirrors,
# and a core for five to twenty minutes each; a root file system is kept in bin/vm.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin" CGO_ENABLED=0
here=lab/vm cache=bin/vm

# Seconds: about five minutes on an idle machine. On one with eight busy processes a core it was seen to take thrice as long.
limit=3600
packages=systemd-sysv,dbus,linux-image-cloud-amd64,tiny-initramfs,kmod,mount,procps,iproute2,iptables,conntrack
packages+=,containerd,runc,containernetworking-plugins,apparmor,git,openssh-client,curl,jq
# Units that a machine which lives for minutes has no use for. apparmor.service loads profiles of programs that are not here.
masked='apparmor e2scrub_reap systemd-timesyncd systemd-logind systemd-journal-flush systemd-random-seed getty@tty1
	getty-static apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer'

die() {
	echo "test-vm: $*" >&2
	exit 1
}

work=
qemu=
clean() {
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	[ -z "$work" ] || rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# mirror prints where this machine's apt has a suite's archive from, by the archive's label.
mirror() {
	apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | sed -n "s/^$1|//p" | sort -u | head -n 1
}

# sources prints the lines of sources.list of a platform.
sources() {
	local debian security
	debian=$(mirror Debian) security=$(mirror Debian-Security)
	[ -n "$debian" ] || die "this machine's apt has no mirror of Debian; make one known to it, and run apt-get update"
	echo "deb $debian trixie main"
	[ -z "$security" ] || echo "deb $security trixie-security main"
	[ "$1" != newer ] || echo "deb $debian testing main"
}

# root makes a platform's root file system with its kernel in a folder; it is made of what the arguments say.
root() {
	local platform=$1 into=$2 option=() setting pin
	# The machine's own way to its mirrors: proxies, certificates, and whether the age of an index counts.
	while IFS= read -r setting; do option+=(--aptopt="$setting"); done < <(apt-config dump | grep -E '^Acquire::(https?|Check)[:-]' || true)
	if [ "$platform" = newer ]; then
		pin='Package: *\nPin: release a=testing\nPin-Priority: 100\n\nPackage: containerd runc\nPin: release a=testing\nPin-Priority: 900\n'
		option+=(--setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\" && printf '$pin' >\"\$1/etc/apt/preferences.d/newer\"")
	fi
	sources "$platform" | nice -n 15 mmdebstrap --quiet --mode=root --variant=essential --format=directory --include="$packages" \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' "${option[@]}" trixie "$into/root" -
	for unit in $masked; do
		case $unit in *.*) ;; *) unit=$unit.service ;; esac
		ln -sf /dev/null "$into/root/etc/systemd/system/$unit"
	done
	cp $here/smoke.service "$into/root/etc/systemd/system/"
	mkdir -p "$into/root/etc/systemd/system/multi-user.target.wants"
	ln -sf ../smoke.service "$into/root/etc/systemd/system/multi-user.target.wants/"
	echo vm >"$into/root/etc/hostname"
	printf '127.0.0.1 localhost vm\n' >"$into/root/etc/hosts"
	cp "$into"/root/boot/vmlinuz-* "$into/vmlinuz"
	# Sparse: what the guest writes goes to a file of the emulator's that ends with it.
	mke2fs -q -t ext4 -d "$into/root" "$into/root.ext4" 4G >/dev/null
	rm -rf "$into/root"
}

# payload packs what is tried, as a raw tar which the guest reads from its second disk.
payload() {
	local tree=$work/payload
	mkdir -p "$tree"/{etc/lockstep,etc/systemd/system,usr/local/bin,srv/vm/manifests,srv/vm/images}
	go build -trimpath -o "$work/standin" ./lab/standin
	go run ./manifests-example/images/build "$tree/srv/vm/images" standin="$work/standin" >/dev/null
	cp bin/images/*.tar "$tree/srv/vm/images/"
	cp bin/lockstep "$tree/usr/local/bin/"
	cp -r manifests-example/*.yaml "$tree/srv/vm/manifests/"
	cp -r $here/smoke.sh $here/smoke "$tree/srv/vm/"
	cp $here/sources.yaml "$tree/etc/lockstep/"
	# The unit is the documented one, with a folder of images, since no registry can be reached.
	local unit=$tree/etc/systemd/system/lockstep.service
	sed -n '/^    \[Unit\]$/,/^    WantedBy/s/^    //p' docs/operations.md | sed 's,^ExecStart=.*,& --images /srv/vm/images,' >"$unit"
	grep -q '^ExecStart=.* up ' "$unit" || die "docs/operations.md shows no systemd unit"
	tar -C "$tree" --owner=0 --group=0 -cf "$work/payload.tar" etc usr srv
}

# boot runs a platform's machine to its end.
boot() {
	local of=$1 platform=$2 console=$work/$2.console feed=$work/$2.feed code=0
	mkfifo "$feed"
	# Without -nic none the emulator would give it a network card.
	TMPDIR=$work timeout $limit nice -n 15 qemu-system-x86_64 -machine q35 -accel tcg -cpu max -smp 1 -m 2048 -nic none \
		-display none -monitor none -serial stdio -kernel "$of/vmlinuz" \
		-append 'root=/dev/nvme0n1 rw console=ttyS0 loglevel=4 mitigations=off panic=0 TERM=dumb systemd.show_status=false' \
		-drive file="$of/root.ext4",format=raw,if=none,id=root,snapshot=on -device nvme,drive=root,serial=root \
		-drive file="$work/payload.tar",format=raw,if=none,id=payload,snapshot=on -device nvme,drive=payload,serial=payload \
		</dev/null >"$feed" 2>&1 &
	qemu=$!
	sed -u 's,\r,,g' <"$feed" | tee "$console" | sed -un "s/^vm: /test-vm: $platform: /p" &
	wait "$qemu" || code=$?
	qemu=
	wait $!
	# Nothing of lockstep may stay until a machine that goes down kills it.
	if ! grep -qx 'vm: all is well' "$console" || grep 'systemd-shutdown.*(lockstep)' "$console" >&2; then
		[ $code != 124 ] || echo "test-vm: $platform: not at its end after $limit s" >&2
		echo "test-vm: $platform: FAILED; the end of its console:" >&2
		tail -n 200 "$console" >&2
		return 1
	fi
}

for program in mmdebstrap:mmdebstrap qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs; do
	command -v "${program%%:*}" >/dev/null || die "${program%%:*} is missing: apt-get install ${program##*:}"
done
[ "$(id -u)" = 0 ] || die "only root can make a root file system"

mkdir -p $cache
work=$(mktemp -d $cache/_run.XXXXXX) # of a name that go passes over
work=$PWD/$work
payload
failed=
for platform in ${LOCKSTEP_VM:-trixie newer}; do
	case $platform in trixie | newer) ;; *) die "there is no platform $platform" ;; esac
	began=$SECONDS
	key=$( (sources "$platform" && declare -f root && echo "$packages $masked" && cat $here/smoke.service) | sha256sum | cut -c 1-16)
	of=$cache/$platform-$key
	if [ ! -e "$of/root.ext4" ]; then
		rm -rf $cache/$platform-*
		mkdir "$work/making"
		root "$platform" "$work/making"
		mv "$work/making" "$of"
		echo "test-vm: $platform: made its root file system in $((SECONDS - began)) s"
	fi
	boot "$of" "$platform" || failed+=" $platform"
	echo "test-vm: $platform: $((SECONDS - began)) s"
done
[ -z "$failed" ] || die "failed:$failed"
