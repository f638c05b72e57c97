// Package devices has the resources that a node declares beside its machine's, and the devices that they are made of.
package devices

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"lockstep/kinds"
)

// Resource is an extended resource that a node declares.
type Resource struct {
	Name corev1.ResourceName // such as example.com/gpu
	// Count is how many there are.
	Count int64
	// Devices are their names as CDI has them, vendor.com/class=name, in the order in which they are given to containers. None:
	// they are only counted.
	Devices []string
}

// Parse reads NAME=COUNT, or NAME=DEVICE,DEVICE… by the devices' names as CDI has them.
func Parse(text string) (Resource, error) {
	name, value, ok := strings.Cut(text, "=")
	r := Resource{Name: corev1.ResourceName(name)}
	switch {
	case !ok:
		return r, errors.New("want NAME=COUNT, or NAME=DEVICE,DEVICE…")
	case !kinds.ExtendedResource(r.Name):
		return r, fmt.Errorf("%q is no name of an extended resource, such as example.com/gpu", name)
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		if r.Count = n; n < 0 {
			return r, fmt.Errorf("there cannot be %d of %s", n, name)
		}
		return r, nil
	}
	r.Devices = strings.Split(value, ",")
	r.Count = int64(len(r.Devices))
	for _, device := range r.Devices {
		if _, _, _, err := parser.ParseQualifiedName(device); err != nil {
			return r, fmt.Errorf("%q is neither a number nor a device's name such as example.com/gpu=0: %w", device, err)
		}
	}
	return r, nil
}

// Check says why resources cannot be declared together.
func Check(declared []Resource) error {
	of := map[string]corev1.ResourceName{}
	for i, r := range declared {
		if slices.ContainsFunc(declared[:i], func(o Resource) bool { return o.Name == r.Name }) {
			return fmt.Errorf("%s is declared twice", r.Name)
		}
		for _, device := range r.Devices {
			if of[device] != "" {
				return fmt.Errorf("device %s is declared twice, for %s and %s", device, of[device], r.Name)
			}
			of[device] = r.Name
		}
	}
	return nil
}

// Set is what one node declares. Its methods may be called at any time.
type Set struct {
	declared []Resource
	files    *cdi.Cache // what is described
	log      *slog.Logger

	mu      sync.Mutex
	healthy map[corev1.ResourceName][]string // as they were looked at last; nil: not yet
	changes int                              // of healthy
}

// Open takes what the node declares; files that describe devices are in the folders, or without any in /etc/cdi and /var/run/cdi.
// They are read whenever they are asked for: whoever makes them may be later than the agent.
func Open(declared []Resource, log *slog.Logger, folders ...string) (*Set, error) {
	files, err := cdi.NewCache(cdi.WithSpecDirs(folders...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("cannot read descriptions of devices: %w", err)
	}
	return &Set{declared: declared, files: files, log: log}, nil
}

// Healthy are the devices that can be used now, of each resource that has any, in the order in which they are to be given.
func (s *Set) Healthy() map[corev1.ResourceName][]string {
	healthy := map[corev1.ResourceName][]string{}
	read := false
	for _, r := range s.declared {
		if len(r.Devices) == 0 {
			continue
		}
		if !read {
			s.refresh()
			read = true
		}
		healthy[r.Name] = slices.DeleteFunc(slices.Clone(r.Devices), func(name string) bool { return s.files.GetDevice(name) == nil })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !maps.EqualFunc(s.healthy, healthy, slices.Equal) {
		s.changes++
	}
	s.healthy = healthy
	return maps.Clone(healthy)
}

// Changes counts how often Healthy has found other devices than the time before.
func (s *Set) Changes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// Health is how devices were when Healthy looked at them last, by their resources in the order in which these are declared. Nothing
// is said of devices that are not declared any more.
func (s *Set) Health(names []string) []corev1.ResourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []corev1.ResourceStatus
	for _, r := range s.declared {
		status := corev1.ResourceStatus{Name: r.Name}
		for _, name := range names {
			if !slices.Contains(r.Devices, name) {
				continue
			}
			health := corev1.ResourceHealthStatusHealthy
			if s.healthy != nil && !slices.Contains(s.healthy[r.Name], name) {
				health = corev1.ResourceHealthStatusUnhealthy
			}
			status.Resources = append(status.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(name), Health: health})
		}
		if len(status.Resources) > 0 {
			all = append(all, status)
		}
	}
	return all
}

// refresh reads the files anew; one that cannot be read has no devices.
func (s *Set) refresh() {
	if err := s.files.Refresh(); err != nil {
		s.log.Debug("cannot read all descriptions of devices", "error", err)
	}
}

// Counts are how many there are of each resource, and how many of them can be used: devices that no file describes cannot.
func (s *Set) Counts() (capacity, allocatable corev1.ResourceList) {
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	healthy := s.Healthy()
	for _, r := range s.declared {
		capacity[r.Name] = *resource.NewQuantity(r.Count, resource.DecimalSI)
		allocatable[r.Name] = capacity[r.Name]
		if len(r.Devices) > 0 {
			allocatable[r.Name] = *resource.NewQuantity(int64(len(healthy[r.Name])), resource.DecimalSI)
		}
	}
	return capacity, allocatable
}

// Inject adds devices to a container's specification, as their descriptions say.
func (s *Set) Inject(spec *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	s.refresh()
	if _, err := s.files.InjectDevices(spec, names...); err != nil {
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	return nil
}
