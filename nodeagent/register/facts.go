package register

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// maxPods is Kubernetes' default and what a /24 of pod addresses carries.
const maxPods = 110

// Facts are what a machine is. They change seldom.
type Facts struct {
	CPUs         int
	Memory, Disk int64 // bytes
	Swap         int64 // bytes
	// KeptMemory and KeptDisk are what pods cannot have of them: with less left, pods end.
	KeptMemory, KeptDisk int64
	MachineID            string
	BootID               string
	SystemUUID           string
	Kernel, OSImage      string
	ContainerRuntime     string           // "1.6.20"
	Hugepages            map[string]int64 // bytes, by the size of a page: 2Mi
	// Runtimes are the types of containerd's runtimes by the handlers that RuntimeClasses name them by.
	Runtimes map[string]string
	// RecursiveReadOnly and UserNamespaces say what pods of runc can have.
	RecursiveReadOnly, UserNamespaces bool
}

// ReadFacts reads the machine; dataDir's file system is what pods may fill.
func ReadFacts(dataDir string) (Facts, error) {
	f := Facts{CPUs: runtime.NumCPU(), BootID: BootID(), Runtimes: runtimes(os.Getenv("PATH"))}
	mem, err := meminfo("MemTotal")
	if err != nil {
		return f, err
	}
	f.Memory = mem
	if f.Swap, err = meminfo("SwapTotal"); err != nil {
		return f, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dataDir, &fs); err != nil {
		return f, fmt.Errorf("cannot read size of %s: %w", dataDir, err)
	}
	f.Disk = int64(fs.Blocks) * fs.Bsize
	f.MachineID = line("/etc/machine-id")
	f.SystemUUID = line("/sys/class/dmi/id/product_uuid")
	if f.SystemUUID == "" {
		f.SystemUUID = f.MachineID
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	f.OSImage = osImage()
	f.Hugepages = hugePages("/sys/kernel/mm/hugepages")
	return f, nil
}

// hugePages are the bytes of huge pages that the machine has, by the size of one as Kubernetes writes it, from where the kernel
// shows them.
func hugePages(dir string) map[string]int64 {
	has := map[string]int64{}
	sizes, _ := filepath.Glob(filepath.Join(dir, "hugepages-*kB"))
	for _, p := range sizes {
		kb, err1 := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "hugepages-"), "kB"), 10, 64)
		n, err2 := strconv.ParseInt(line(filepath.Join(p, "nr_hugepages")), 10, 64)
		if err1 == nil && err2 == nil {
			has[resource.NewQuantity(kb<<10, resource.BinarySI).String()] = n * kb << 10
		}
	}
	return has
}

// runtimes finds the programs that containerd runs for its runtimes, as it does: io.containerd.runsc.v1 is
// containerd-shim-runsc-v1 in a folder of the path. Of several versions the highest counts, and the first that is there.
func runtimes(path string) map[string]string {
	found := map[string]string{}
	versions := map[string]int{}
	for _, dir := range filepath.SplitList(path) {
		programs, _ := filepath.Glob(filepath.Join(dir, "containerd-shim-*-v*"))
		for _, program := range programs {
			name := strings.TrimPrefix(filepath.Base(program), "containerd-shim-")
			i := strings.LastIndex(name, "-v")
			version, err := strconv.Atoi(name[i+2:])
			if err != nil || i == 0 || !executable(program) {
				continue
			}
			if handler := name[:i]; version > versions[handler] {
				versions[handler], found[handler] = version, fmt.Sprintf("io.containerd.%s.v%d", handler, version)
			}
		}
	}
	return found
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// BootID names the machine's current boot.
func BootID() string { return line("/proc/sys/kernel/random/boot_id") }

func line(path string) string {
	data, _ := os.ReadFile(path)
	return strings.TrimSpace(string(data))
}

func meminfo(name string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("cannot read memory size: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		var kb int64
		if value, ok := strings.CutPrefix(s.Text(), name+":"); ok {
			if _, err := fmt.Sscanf(value, "%d kB", &kb); err == nil {
				return kb << 10, nil
			}
		}
	}
	return 0, fmt.Errorf("cannot read memory size: no %s", name)
}

func osImage() string {
	data, _ := os.ReadFile("/etc/os-release")
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// Capacity is what the machine has, in Kubernetes' resources.
func (f Facts) Capacity() corev1.ResourceList {
	l := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(f.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.Disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	for size, n := range f.Hugepages {
		l[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(n, resource.BinarySI)
	}
	return l
}

// Allocatable is what pods may request: all but what is kept.
func (f Facts) Allocatable() corev1.ResourceList {
	l := f.Capacity()
	memory := f.Memory - f.KeptMemory
	for _, pages := range f.Hugepages { // nobody else can have them
		memory -= pages
	}
	l[corev1.ResourceMemory] = *resource.NewQuantity(max(memory, 0), resource.BinarySI)
	l[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(max(f.Disk-f.KeptDisk, 0), resource.BinarySI)
	return l
}

// OutboundIP is the local address from which server would be reached; no
// packet is sent.
func OutboundIP(server string) (netip.Addr, error) {
	c, err := net.Dial("udp", server)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot find the node's address towards %s: %w", server, err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}
