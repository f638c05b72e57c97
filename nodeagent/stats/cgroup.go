package stats

import (
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/nodeagent/cgroup"
)

// used is what a cgroup, or a machine, has used. What the kernel does not count is zero.
type used struct {
	cpu, user, system  uint64 // nanoseconds since it began
	periods, throttled uint64 // of its CPU quota
	throttledTime      uint64 // nanoseconds

	memory, workingSet, rss           uint64 // bytes
	cache, mapped, swap, most         uint64 // bytes; most is the most memory there has been
	activeFile, inactiveFile, failcnt uint64
	faults, majorFaults, oomKills     uint64

	processes, threads uint64
	disks              []disk

	limits limits
	booted time.Time // of a machine only
}

// limits are what a cgroup is held to, zero where to nothing.
type limits struct {
	shares        uint64 // of CPU, in the first version's scale
	quota, period uint64 // of CPU time, microseconds
	memory        uint64 // bytes; of a machine what it has
	reserved      uint64 // bytes of memory that are its own
	swap          uint64 // bytes of memory and swap; of a machine its swap
	threads       uint64
}

// disk is what was read from and written to one.
type disk struct {
	device                  string // "8:0", or "/dev/sda" where it has a name
	readBytes, writtenBytes uint64
	reads, writes           uint64
}

// noLimit is more memory than there is: what v1 shows where nothing is set.
const noLimit = math.MaxInt64 / 2

// tree is where the kernel shows cgroups.
type tree struct {
	root    string
	unified bool // cgroup v2
}

func machineTree() tree { return tree{root: cgroup.Mount, unified: cgroup.V2()} }

// cpuTime reads the CPU time of a cgroup, in nanoseconds, and nothing else: it is asked for again and again.
func (t tree) cpuTime(path string) (uint64, error) {
	if path == "" {
		return 0, fs.ErrNotExist
	}
	if t.unified {
		text, err := readKernel(filepath.Join(t.root, path, "cpu.stat"))
		return table(text)["usage_usec"] * uint64(time.Microsecond), err
	}
	text, err := readKernel(filepath.Join(t.root, "cpuacct", path, "cpuacct.usage"))
	return number(text), err
}

// read reads what a cgroup has used. The error is of a cgroup that is not there.
func (t tree) read(path string) (used, error) {
	if path == "" {
		return used{}, fs.ErrNotExist
	}
	if t.unified {
		return parse2(func(file string) ([]byte, error) { return readKernel(filepath.Join(t.root, path, file)) })
	}
	return parse1(func(file string) ([]byte, error) {
		controller, _, _ := strings.Cut(file, ".")
		if file == "cgroup.procs" {
			controller = "pids"
		}
		return readKernel(filepath.Join(t.root, controller, path, file))
	})
}

// readKernel reads a file of the kernel's, of which a node has thousands and none can be waited for: half the work of
// os.ReadFile, which offers each to the poller first.
func readKernel(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 2<<10) // memory.stat has some 1.5 KiB, most have a number
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return text, nil
		default:
			if text = text[:len(text)+n]; len(text) == cap(text) {
				text = append(text, 0)[:len(text)]
			}
		}
	}
}

// parse1 takes the files of a cgroup of the first version (the kernel's admin-guide/cgroup-v1).
func parse1(file func(name string) ([]byte, error)) (used, error) {
	text, err := file("cpuacct.usage")
	if err != nil {
		return used{}, err
	}
	u := used{cpu: number(text)}
	get := func(name string) []byte { text, _ := file(name); return text } // a kernel may be built without
	ticks := table(get("cpuacct.stat"))
	u.user, u.system = ticks["user"]*uint64(tick), ticks["system"]*uint64(tick)
	cpu := table(get("cpu.stat"))
	u.periods, u.throttled, u.throttledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]
	u.limits.quota = number(get("cpu.cfs_quota_us")) // -1 is none
	u.limits.period, u.limits.shares = number(get("cpu.cfs_period_us")), number(get("cpu.shares"))

	u.memory, u.most = number(get("memory.usage_in_bytes")), number(get("memory.max_usage_in_bytes"))
	memory := table(get("memory.stat"))
	u.cache, u.rss, u.mapped, u.swap = memory["total_cache"], memory["total_rss"], memory["total_mapped_file"], memory["total_swap"]
	u.activeFile, u.inactiveFile = memory["total_active_file"], memory["total_inactive_file"]
	u.workingSet = less(u.memory, u.inactiveFile)
	u.faults, u.majorFaults = memory["total_pgfault"], memory["total_pgmajfault"]
	u.failcnt, u.oomKills = number(get("memory.failcnt")), table(get("memory.oom_control"))["oom_kill"]
	u.limits.memory = limit(get("memory.limit_in_bytes"))
	u.limits.reserved, u.limits.swap = limit(get("memory.soft_limit_in_bytes")), limit(get("memory.memsw.limit_in_bytes"))

	u.threads, u.limits.threads = number(get("pids.current")), limit(get("pids.max"))
	u.processes = lines(get("cgroup.procs"))
	u.disks = parseBlkio(get("blkio.throttle.io_service_bytes_recursive"), get("blkio.throttle.io_serviced_recursive"))
	return u, nil
}

// parse2 takes the files of a cgroup of the unified hierarchy (the kernel's admin-guide/cgroup-v2).
func parse2(file func(name string) ([]byte, error)) (used, error) {
	text, err := file("cpu.stat")
	if err != nil {
		return used{}, err
	}
	get := func(name string) []byte { text, _ := file(name); return text } // a controller may not be enabled
	const micro = uint64(time.Microsecond)
	cpu := table(text)
	u := used{cpu: cpu["usage_usec"] * micro, user: cpu["user_usec"] * micro, system: cpu["system_usec"] * micro,
		periods: cpu["nr_periods"], throttled: cpu["nr_throttled"], throttledTime: cpu["throttled_usec"] * micro}
	quota, period, _ := strings.Cut(string(get("cpu.max")), " ")
	u.limits.quota, u.limits.period = number([]byte(quota)), number([]byte(period))
	if weight := number(get("cpu.weight")); weight > 0 {
		// The inverse of how runtimes turn shares, 2 to 262144, into a weight, 1 to 10000.
		u.limits.shares = 2 + (weight-1)*262142/9999
	}

	u.memory, u.most = number(get("memory.current")), number(get("memory.peak"))
	memory := table(get("memory.stat"))
	u.cache, u.rss, u.mapped = memory["file"], memory["anon"], memory["file_mapped"]
	u.swap = number(get("memory.swap.current"))
	u.activeFile, u.inactiveFile = memory["active_file"], memory["inactive_file"]
	u.workingSet = less(u.memory, u.inactiveFile)
	u.faults, u.majorFaults = memory["pgfault"], memory["pgmajfault"]
	events := table(get("memory.events"))
	u.failcnt, u.oomKills = events["max"], events["oom_kill"]
	u.limits.memory, u.limits.reserved = limit(get("memory.max")), limit(get("memory.low"))
	if swap := get("memory.swap.max"); u.limits.memory > 0 && len(swap) > 0 && strings.TrimSpace(string(swap)) != "max" {
		u.limits.swap = u.limits.memory + number(swap)
	}

	u.threads, u.limits.threads = number(get("pids.current")), limit(get("pids.max"))
	u.processes = lines(get("cgroup.procs"))
	u.disks = parseIOStat(get("io.stat"))
	return u, nil
}

// parseBlkio takes the first version's two tables of "8:0 Read 4096".
func parseBlkio(bytes, operations []byte) []disk {
	var disks []disk
	at := func(device string) *disk {
		for i := range disks {
			if disks[i].device == device {
				return &disks[i]
			}
		}
		disks = append(disks, disk{device: device})
		return &disks[len(disks)-1]
	}
	each := func(text []byte, read, write func(*disk) *uint64) {
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			n := number([]byte(fields[2]))
			switch fields[1] {
			case "Read":
				*read(at(fields[0])) = n
			case "Write":
				*write(at(fields[0])) = n
			}
		}
	}
	each(bytes, func(d *disk) *uint64 { return &d.readBytes }, func(d *disk) *uint64 { return &d.writtenBytes })
	each(operations, func(d *disk) *uint64 { return &d.reads }, func(d *disk) *uint64 { return &d.writes })
	return disks
}

// parseIOStat takes lines of "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func parseIOStat(text []byte) []disk {
	var disks []disk
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		d := disk{device: fields[0]}
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			switch n := number([]byte(value)); name {
			case "rbytes":
				d.readBytes = n
			case "wbytes":
				d.writtenBytes = n
			case "rios":
				d.reads = n
			case "wios":
				d.writes = n
			}
		}
		disks = append(disks, d)
	}
	return disks
}

// number is what a file of one number has; zero for "max" and below zero, which mean none.
func number(text []byte) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// limit is a number that may be more than there is, which is none.
func limit(text []byte) uint64 {
	if n := number(text); n < noLimit {
		return n
	}
	return 0
}

func lines(text []byte) uint64 { return uint64(strings.Count(string(text), "\n")) }

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// table reads lines of a name and a number.
func table(text []byte) map[string]uint64 {
	rows := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			rows[fields[0]] = n
		}
	}
	return rows
}
