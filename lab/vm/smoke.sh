# Runs in the emulated machine, once at each of its two boots: lockstep as a service of systemd, from nothing to nothing. Lines
# that begin with "vm: " are for the one who waits; the last is "vm: all is well" or says what failed. It ends with 3 where
# the machine is to boot again.
set -uo pipefail
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# All waits are for a machine that is twenty times slower than usual, and whose host is busy.
patience=1200

say() { echo "vm: $(cut -d. -f1 /proc/uptime) s: $*"; }

die() {
	say "FAILED: $*"
	lockstep status
	systemctl --no-pager --lines 0 status lockstep containerd
	journalctl --no-pager -o short-monotonic -n 60 -u containerd
	journalctl --no-pager -o short-monotonic -n 100 -u lockstep
	exit 1
}

# within waits until a command succeeds.
within() {
	local what=$1 until=$((SECONDS + patience))
	shift
	until "$@" >/tmp/within 2>&1; do
		[ $SECONDS -lt $until ] || die "$what: not within $patience s; the last answer: $(tail -c 2000 /tmp/within)"
		sleep 2
	done
}

# same compares what something is with what it is to be.
same() { [ "$2" = "$3" ] || die "$1 is $(printf %q "$2"), not $(printf %q "$3")"; }

api() { curl -sSf --max-time 60 --cacert /tmp/ca -H "Authorization: Bearer $token" "https://127.0.0.1:6443$1"; }
pod() { api /api/v1/namespaces/smoke/pods/"$1" | jq -er "$2"; }
state() { pod "$1" "$2" | grep -qx "$3"; }
harbour() { curl -sS --max-time 30 http://127.0.0.1:30080/ | grep -q Bellweather; }
# The source of pod hungry is not well, and so status does not end with 0.
healthy() { { lockstep status -o json || true; } | jq -e '[.sources[] | select(.name == "harbour") | .status.state] == ["success"]'; }
# containers are the running containers with the ids of their processes.
containers() { ctr -n lockstep tasks ls | awk 'NR > 1 && $3 == "RUNNING" { print $1, $2 }' | sort; }
unchanged() {
	within 'the cluster' healthy
	within 'the example' harbour
	same "what runs after $1" "$(containers)" "$ran"
	say "$1: the same containers, the example answers"
}

# traces is everything on this machine that a node could leave; empty chains that iptables has by itself are nothing.
traces() {
	local own='\.(lo|all|default)\.(stable_secret|mtu)|nf_conntrack_(count|buckets|max)'
	echo "# links" && ip -o link | cut -d' ' -f2
	echo "# addresses" && ip -o addr | awk '{ print $2, $4 }'
	echo "# routes" && ip route show table all && ip rule
	echo "# rules" && { iptables-save && ip6tables-save; } | grep -E '^-|^:.* - '
	echo "# settings" && sysctl -a 2>/dev/null | grep '^net\.' | grep -vE "$own"
	echo "# mounts" && findmnt -rn -o TARGET,FSTYPE | sort
	echo "# namespaces" && lsns -n -o TYPE | sort | uniq -c
	echo "# cgroups" && find /sys/fs/cgroup -type d | grep -vE '^/sys/fs/cgroup/(system|user|init)\.' | sort
	echo "# processes" && ps -eo comm= | grep -E 'lockstep|shim|runc|app$' | sort
	echo "# containers" && ctr -n lockstep containers ls -q && ctr -n lockstep snapshots ls | tail -n +2
	echo "# files" && ls -d /var/lib/lockstep /run/lockstep /var/log/pods /var/lib/cni /run/netns /run/containerd/s/* \
		/run/containerd/io.containerd.runtime.v2.task/lockstep/* /run/containerd/runc/lockstep/* 2>/dev/null
}

# modules loads what a node makes the kernel load: what modules set is not of the node.
modules() { iptables -L -n >/dev/null && ip6tables -L -n >/dev/null && modprobe -a br_netfilter nf_conntrack veth overlay; }

# ask finds the way to the API and waits until all is well.
ask() {
	within 'the daemon' lockstep kubeconfig --bearer -o /tmp/kubeconfig
	token=$(sed -n 's/^ *token: //p' /tmp/kubeconfig)
	sed -n 's/^ *certificate-authority-data: //p' /tmp/kubeconfig | base64 -d >/tmp/ca
	within 'the cluster' healthy
	within 'the example' harbour
	within 'pod bounded' state bounded '.status.conditions[] | select(.type == "Ready") | .status' True
}

# process is the one that pod bounded runs as.
process() {
	local id
	id=$(pod bounded '.status.containerStatuses[0].containerID')
	ctr -n lockstep tasks ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }'
}

first() {
	local id own process limit weight used end ran before
	traces >/srv/vm/before
	systemctl daemon-reload
	systemctl enable --quiet --now lockstep || die "cannot start the unit"
	ask
	say 'the example is healthy, and answers'

	id=$(pod bounded '.status.containerStatuses[0].containerID') && id=${id#containerd://}
	own=/sys/fs/cgroup/lockstep/vm/burstable/pod$(pod bounded .metadata.uid)
	process=$(process)
	same "the process's cgroup" "$(cat /proc/"$process"/cgroup)" "0::${own#/sys/fs/cgroup}/$id"
	for limit in memory.max=50331648 'cpu.max=20000 100000' memory.swap.max=0 memory.oom.group=1; do
		same "the container's ${limit%%=*}" "$(cat "$own/$id/${limit%%=*}")" "${limit#*=}"
	done
	for limit in memory.max=50331648 'cpu.max=20000 100000' pids.max=4096; do
		same "the pod's ${limit%%=*}" "$(cat "$own/${limit%%=*}")" "${limit#*=}"
	done
	[ "$(cat /sys/fs/cgroup/lockstep/vm/pids.max)" != max ] || die 'the processes of all pods together have no bound'
	weight=$(cat "$own/$id/cpu.weight")
	[ "$weight" -lt 100 ] || die "a container that asks for a tenth of a processor has the weight $weight"
	same 'the AppArmor profile' "$(cat /proc/"$process"/attr/current)" 'lockstep-default (enforce)'
	same 'the seccomp mode' "$(awk '/^Seccomp:/ { print $2 }' /proc/"$process"/status)" 2
	same 'the log' "$(api /api/v1/namespaces/smoke/pods/bounded/log)" 'bounded serves'
	used=$(api /api/v1/nodes/vm/proxy/stats/summary | jq '.pods[] | select(.podRef.name == "bounded") | .containers[0].memory.workingSetBytes')
	[ "${used:-0}" -gt 0 ] && [ "$used" -le 50331648 ] || die "the container's memory is told as $used bytes"
	say "limits are the kernel's (cpu.max, cpu.weight $weight, memory.max, memory.swap.max, memory.oom.group, pids.max)," \
		"and so are AppArmor and seccomp"

	end='.status.containerStatuses[0].state.terminated'
	within 'the end of pod hungry' state hungry .status.phase Failed
	same 'the end of pod hungry' "$(pod hungry "$end | \"\(.reason) \(.exitCode)\"")" 'OOMKilled 137'
	say 'a container without memory is OOMKilled'

	ran=$(containers)
	[ "$(wc -l <<<"$ran")" -ge 5 ] || die "five containers are to run, not: $ran"
	systemctl stop lockstep || die 'cannot stop the unit'
	same 'what runs while lockstep is stopped' "$(containers)" "$ran"
	within 'the example while lockstep is stopped' harbour
	systemctl start lockstep || die 'cannot start the unit again'
	unchanged 'systemctl stop and start of lockstep'
	before=$(systemctl show -P MainPID lockstep)
	kill -9 "$before"
	within 'another lockstep' sh -c "systemctl is-active -q lockstep && [ \$(systemctl show -P MainPID lockstep) -ne $before ]"
	unchanged 'kill -9 of lockstep'
	systemctl restart containerd || die 'cannot restart containerd'
	within containerd ctr version
	unchanged 'systemctl restart of containerd'

	# The agent is at work with the containerd that came: what ends is started again.
	kill -9 "$process"
	within 'the restart of pod bounded' state bounded '.status.containerStatuses[0] | "\(.restartCount) \(.ready)"' '1 true'
	say 'a container that is killed after that is started again'
	kill -9 "$(ps -o ppid= -p "$(process)")"
	within 'the restart after the end of a shim' state bounded '.status.containerStatuses[0] | "\(.restartCount) \(.ready)"' '2 true'
	say 'so is one whose shim is killed'

	journalctl --no-pager -o cat -u lockstep >/srv/vm/log
	exit 3
}

second() {
	ask
	same 'the end of pod hungry' "$(pod hungry .status.phase)" Failed
	say 'after a reboot the example is healthy again'

	systemctl disable --quiet --now lockstep || die 'cannot stop the unit'
	same reset "$(lockstep reset 2>&1)" 'nothing of Lockstep is left on this machine'
	traces >/tmp/after
	diff -u /srv/vm/before /tmp/after || die 'reset left what is above'
	same 'the second reset' "$(lockstep reset 2>&1)" 'nothing of Lockstep is left on this machine'
	say 'reset left nothing'

	echo '--- what lockstep warned of'
	{ cat /srv/vm/log && journalctl --no-pager -o cat -u lockstep; } | grep -E 'level=(WARN|ERROR)' | sort | uniq -c | tail -n 40
	echo 'vm: all is well'
}

say "$(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), $(systemctl --version | head -n 1)," \
	"$(containerd --version | awk '{ print "containerd", $3 }'), $(runc --version | head -n 1), $(iptables --version)"
same "the file system of cgroups" "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs
within containerd ctr version
modules || die 'the kernel lacks modules'
if [ -e /srv/vm/before ]; then second; else first; fi
