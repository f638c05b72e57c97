package stats

import (
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// subject is what a row of cAdvisor's is about: the machine, a pod's cgroup, or a container's.
type subject struct {
	labels  []string // of containerLabels
	started time.Time
	at      time.Time
	disk    string // the device that its files are on
	use     *use
	links   []link
	// Bytes and inodes of a file system: what there is, what is taken, and inodes that are free.
	size, taken, inodes, inodesFree *uint64
}

// containerLabels are what cAdvisor says of each row's subject, as the kubelet has it. Of the machine all but the id are
// empty, of a pod's cgroup container, image and name.
var containerLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// family is one metric by cAdvisor's name (github.com/google/cadvisor, docs/storage/prometheus.md).
type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(s *subject, add func(value float64, labels ...string))
}

func ofContainer(name, help string, kind prometheus.ValueType, extra []string, values func(*subject, func(float64, ...string))) family {
	labels := append(append([]string(nil), containerLabels...), extra...)
	return family{prometheus.NewDesc(name, help, labels, nil), kind, values}
}

// gauge and counter are of one number, counterOf one that is counted in nanoseconds.
func gauge(name, help string, value func(*used) uint64) family {
	return ofContainer(name, help, prometheus.GaugeValue, nil, one(value, 1))
}

func counter(name, help string, value func(*used) uint64) family {
	return ofContainer(name, help, prometheus.CounterValue, nil, one(value, 1))
}

func counterOf(name, help string, value func(*used) uint64) family {
	return ofContainer(name, help, prometheus.CounterValue, nil, one(value, float64(time.Second)))
}

func one(value func(*used) uint64, unit float64) func(*subject, func(float64, ...string)) {
	return func(s *subject, add func(float64, ...string)) {
		if s.use.known {
			add(float64(value(&s.use.used)) / unit)
		}
	}
}

// quota is of a CPU quota, of which there is nothing to tell where there is none.
func quota(f family) family {
	values := f.values
	f.values = func(s *subject, add func(float64, ...string)) {
		if s.use.limits.quota > 0 {
			values(s, add)
		}
	}
	return f
}

func ofDisk(name, help string, value func(disk) uint64) family {
	return ofContainer(name, help, prometheus.CounterValue, []string{"device"}, func(s *subject, add func(float64, ...string)) {
		for _, d := range s.use.disks {
			add(float64(value(d)), d.device)
		}
	})
}

func ofLink(name, help string, value func(link) uint64) family {
	return ofContainer(name, help, prometheus.CounterValue, []string{"interface"}, func(s *subject, add func(float64, ...string)) {
		for _, l := range s.links {
			add(float64(value(l)), l.name)
		}
	})
}

func ofFiles(name, help string, value func(*subject) *uint64) family {
	return ofContainer(name, help, prometheus.GaugeValue, []string{"device"}, func(s *subject, add func(float64, ...string)) {
		if n := value(s); n != nil {
			add(float64(*n), s.disk)
		}
	})
}

var families = []family{
	ofContainer("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", prometheus.CounterValue,
		[]string{"cpu"}, func(s *subject, add func(float64, ...string)) {
			if s.use.known {
				add(time.Duration(s.use.cpu).Seconds(), "total")
			}
		}),
	counterOf("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(u *used) uint64 { return u.user }),
	counterOf("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.",
		func(u *used) uint64 { return u.system }),
	quota(counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.",
		func(u *used) uint64 { return u.periods })),
	quota(counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.",
		func(u *used) uint64 { return u.throttled })),
	quota(counterOf("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.",
		func(u *used) uint64 { return u.throttledTime })),

	gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed",
		func(u *used) uint64 { return u.memory }),
	gauge("container_memory_working_set_bytes", "Current working set in bytes.", func(u *used) uint64 { return u.workingSet }),
	gauge("container_memory_rss", "Size of RSS in bytes.", func(u *used) uint64 { return u.rss }),
	gauge("container_memory_cache", "Number of bytes of page cache memory.", func(u *used) uint64 { return u.cache }),
	gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", func(u *used) uint64 { return u.mapped }),
	gauge("container_memory_swap", "Container swap usage in bytes.", func(u *used) uint64 { return u.swap }),
	gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", func(u *used) uint64 { return u.most }),
	gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", func(u *used) uint64 { return u.activeFile }),
	gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.",
		func(u *used) uint64 { return u.inactiveFile }),
	counter("container_memory_failcnt", "Number of memory usage hits limits", func(u *used) uint64 { return u.failcnt }),
	ofContainer("container_memory_failures_total", "Cumulative count of memory allocation failures.", prometheus.CounterValue,
		[]string{"failure_type", "scope"}, func(s *subject, add func(float64, ...string)) {
			if s.use.known {
				add(float64(s.use.faults), "pgfault", "hierarchy")
				add(float64(s.use.majorFaults), "pgmajfault", "hierarchy")
			}
		}),
	counter("container_oom_events_total", "Count of out of memory events observed for the container",
		func(u *used) uint64 { return u.oomKills }),

	ofFiles("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.",
		func(s *subject) *uint64 { return s.taken }),
	ofFiles("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.",
		func(s *subject) *uint64 { return s.size }),
	ofFiles("container_fs_inodes_total", "Number of Inodes", func(s *subject) *uint64 { return s.inodes }),
	ofFiles("container_fs_inodes_free", "Number of available Inodes", func(s *subject) *uint64 { return s.inodesFree }),
	ofDisk("container_fs_reads_bytes_total", "Cumulative count of bytes read", func(d disk) uint64 { return d.readBytes }),
	ofDisk("container_fs_reads_total", "Cumulative count of reads completed", func(d disk) uint64 { return d.reads }),
	ofDisk("container_fs_writes_bytes_total", "Cumulative count of bytes written", func(d disk) uint64 { return d.writtenBytes }),
	ofDisk("container_fs_writes_total", "Cumulative count of writes completed", func(d disk) uint64 { return d.writes }),

	ofLink("container_network_receive_bytes_total", "Cumulative count of bytes received", func(l link) uint64 { return l.RxBytes }),
	ofLink("container_network_receive_packets_total", "Cumulative count of packets received", func(l link) uint64 { return l.RxPackets }),
	ofLink("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving",
		func(l link) uint64 { return l.RxDropped }),
	ofLink("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving",
		func(l link) uint64 { return l.RxErrors }),
	ofLink("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", func(l link) uint64 { return l.TxBytes }),
	ofLink("container_network_transmit_packets_total", "Cumulative count of packets transmitted",
		func(l link) uint64 { return l.TxPackets }),
	ofLink("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting",
		func(l link) uint64 { return l.TxDropped }),
	ofLink("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting",
		func(l link) uint64 { return l.TxErrors }),

	gauge("container_processes", "Number of processes running inside the container.", func(u *used) uint64 { return u.processes }),
	gauge("container_threads", "Number of threads running inside the container", func(u *used) uint64 { return u.threads }),
	gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero",
		func(u *used) uint64 { return u.limits.threads }),

	gauge("container_spec_cpu_shares", "CPU share of the container.", func(u *used) uint64 { return u.limits.shares }),
	quota(gauge("container_spec_cpu_quota", "CPU quota of the container.", func(u *used) uint64 { return u.limits.quota })),
	gauge("container_spec_cpu_period", "CPU period of the container.", func(u *used) uint64 { return u.limits.period }),
	gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", func(u *used) uint64 { return u.limits.memory }),
	gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.",
		func(u *used) uint64 { return u.limits.reserved }),
	gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", func(u *used) uint64 { return u.limits.swap }),
	ofContainer("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", prometheus.GaugeValue, nil,
		func(s *subject, add func(float64, ...string)) {
			if !s.started.IsZero() {
				add(float64(s.started.Unix()))
			}
		}),
	ofContainer("container_last_seen", "Last time a container was seen by the exporter", prometheus.GaugeValue, nil,
		func(s *subject, add func(float64, ...string)) {
			if s.use.known {
				add(float64(s.at.Unix()))
			}
		}),
}

// subjects are the rows' of a moment.
func (m *moment) subjects() []subject {
	machine := subject{
		labels: []string{"", "/", "", "", "", ""}, started: m.node.booted, at: m.at, disk: m.device, use: &m.node, links: m.links,
	}
	machine.files(m.fs)
	out := []subject{machine}
	for i := range m.pods {
		p := &m.pods[i]
		out = append(out, subject{
			labels:  []string{"", id(p.Cgroup), "", "", p.Namespace, p.Name},
			started: p.StartTime, at: m.at, use: &p.use, links: p.links,
		})
		for j := range p.containers {
			c := &p.containers[j]
			s := subject{
				labels:  []string{c.Name, id(c.Cgroup), c.Image, c.ID, p.Namespace, p.Name},
				started: c.StartTime, at: m.at, disk: m.device, use: &c.use,
			}
			s.files(c.rootfs)
			out = append(out, s)
		}
	}
	return out
}

func (s *subject) files(fs *statsapi.FsStats) {
	if fs != nil {
		s.size, s.taken, s.inodes, s.inodesFree = fs.CapacityBytes, fs.UsedBytes, fs.Inodes, fs.InodesFree
	}
}

func id(path string) string { return filepath.Join("/", path) }

var machineLabels = []string{"boot_id", "machine_id", "system_uuid"}

func ofMachine(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, machineLabels, nil)
}

var (
	machineCores    = ofMachine("machine_cpu_cores", "Number of logical CPU cores.")
	machinePhysical = ofMachine("machine_cpu_physical_cores", "Number of physical CPU cores.")
	machineSockets  = ofMachine("machine_cpu_sockets", "Number of CPU sockets.")
	machineMemory   = ofMachine("machine_memory_bytes", "Amount of memory installed on the machine.")
	machineSwap     = ofMachine("machine_swap_bytes", "Amount of swap memory available on the machine.")
	scrapeError     = prometheus.NewDesc("container_scrape_error",
		"1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

// text collects what a moment says, in one of its forms.
type text func(out chan<- prometheus.Metric)

// Describe implements prometheus.Collector: it has what it has.
func (text) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (t text) Collect(out chan<- prometheus.Metric) { t(out) }

func (c *Collector) cadvisor(m *moment) text {
	return func(out chan<- prometheus.Metric) {
		info := c.options.Machine
		machine := func(desc *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, info.BootID, info.MachineID, info.SystemUUID)
		}
		machine(machineCores, float64(m.cpus))
		machine(machinePhysical, float64(m.physical))
		machine(machineSockets, float64(m.sockets))
		machine(machineMemory, float64(m.node.limits.memory))
		machine(machineSwap, float64(m.node.limits.swap))
		subjects := m.subjects()
		for _, f := range families {
			for i := range subjects {
				s := &subjects[i]
				f.values(s, func(value float64, extra ...string) {
					labels := append(s.labels[:len(s.labels):len(s.labels)], extra...)
					out <- prometheus.NewMetricWithTimestamp(m.at, prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...))
				})
			}
		}
		out <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	}
}

// CAdvisor answers GET /metrics/cadvisor: cAdvisor's metrics as the kubelet has them.
func (c *Collector) CAdvisor(w http.ResponseWriter, r *http.Request) {
	c.expose(w, r, true, c.cadvisor)
}

// expose answers with metrics of a moment.
func (c *Collector) expose(w http.ResponseWriter, r *http.Request, whole bool, form func(*moment) text) {
	c.answer(w, r, whole, func(m *moment) {
		registry := prometheus.NewRegistry()
		if err := registry.Register(form(m)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}
