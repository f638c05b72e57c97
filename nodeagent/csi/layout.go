package csi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/whole"
)

// Kubelet is the directory that manifests of drivers name. Pods see a node's own in its place, and drivers are told of paths in it.
const Kubelet = "/var/lib/kubelet"

// plugin is the name that the kubelet has for all drivers' volumes.
const plugin = "kubernetes.io/csi"

// dataFile has the record of a volume, beside what it is mounted at.
const dataFile = "vol_data.json"

// layout is the kubelet's directory as drivers know it.
type layout struct{ dir string }

func (l layout) registry() string { return filepath.Join(l.dir, "plugins_registry") }
func (l layout) plugins() string  { return filepath.Join(l.dir, "plugins") }
func (l layout) pods() string     { return filepath.Join(l.dir, "pods") }

// volumes has a directory for each of a pod's volumes, by their names.
func (l layout) volumes(uid types.UID) string {
	return filepath.Join(l.pods(), string(uid), "volumes", "kubernetes.io~csi")
}

// staged has a directory for each driver.
func (l layout) staged() string { return filepath.Join(l.plugins(), plugin) }

// blocks has what is published and staged as a device.
func (l layout) blocks() string { return filepath.Join(l.staged(), "volumeDevices") }

// target is where a volume is published for a pod.
func (l layout) target(uid types.UID, name string, block bool) string {
	if block {
		return filepath.Join(l.blocks(), "publish", name, string(uid))
	}
	return filepath.Join(l.volumes(uid), name, "mount")
}

// staging has the record of a volume that is staged; it is staged below.
func (l layout) staging(driver, handle string) string {
	return filepath.Join(l.staged(), driver, fmt.Sprintf("%x", sha256.Sum256([]byte(handle))))
}

// stagingPath is where a volume is staged.
func (l layout) stagingPath(driver, handle, name string, block bool) string {
	if block {
		return filepath.Join(l.blocks(), "staging", name)
	}
	return filepath.Join(l.staging(driver, handle), "globalmount")
}

// seen is a path as drivers see it.
func (l layout) seen(path string) string {
	if rest, ok := strings.CutPrefix(path, l.dir); ok && (rest == "" || rest[0] == '/') {
		return Kubelet + rest
	}
	return path
}

// real is where a path is that a driver names.
func (l layout) real(path string) string { return Real(l.dir, path) }

// Real is where a path is that a manifest or driver names: in the node's own directory where it is in the kubelet's.
func Real(dir, path string) string {
	clean := filepath.Clean(path)
	if clean == Kubelet || strings.HasPrefix(clean, Kubelet+"/") {
		return dir + strings.TrimPrefix(clean, Kubelet)
	}
	return path
}

// The steps that a volume has begun, in their order. What has begun may have been done.
const (
	staging    = "staging"
	publishing = "publishing"
	published  = "published"
)

// record is what is kept of a volume on the disk, with the kubelet's keys and some more. A staged volume's has the driver, the
// handle, the attachment, Block and Name.
type record struct {
	Name       string `json:"specVolID,omitempty"`
	Handle     string `json:"volumeHandle"`
	Driver     string `json:"driverName"`
	Node       string `json:"nodeName,omitempty"`
	Attachment string `json:"attachmentID,omitempty"`
	Lifecycle  string `json:"volumeLifecycleMode,omitempty"`

	Block bool `json:"block,omitempty"`
	// Attached says that the volume is one that has to be attached.
	Attached bool `json:"attached,omitempty"`
	// Again says that it is to be published again and again.
	Again bool `json:"again,omitempty"`
	// Step is never empty: a record without one is a kubelet's, and nothing of ours.
	Step string `json:"step,omitempty"`
}

// volume names a volume in a node's status.
func (r record) volume() string { return plugin + "/" + r.Driver + "^" + r.Handle }

func save(dir string, r record) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return whole.Write(filepath.Join(dir, dataFile), data)
}

// load reads a record; false says that there is none.
func load(dir string) (record, bool, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, dataFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && r.Step != "" {
		err = checkVolume(r.Driver, r.Handle)
	}
	if err != nil {
		return r, false, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, dataFile), err)
	}
	return r, r.Step != "", nil
}

// forget removes a record with its directory, and what a crash has left of a record that was being written.
func forget(dir string) error {
	unfinished, err := filepath.Glob(filepath.Join(dir, "."+dataFile+".*.tmp"))
	if err != nil {
		return err
	}
	for _, path := range append(unfinished, filepath.Join(dir, dataFile), dir) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// drop removes the directories of a pod without volumes; what else is in them stays.
func (l layout) drop(uid types.UID) {
	left, _ := os.ReadDir(l.volumes(uid)) // none is left where there never was one
	for _, e := range left {
		if _, ours, err := load(filepath.Join(l.volumes(uid), e.Name())); err == nil && !ours {
			_ = os.Remove(filepath.Join(l.volumes(uid), e.Name()))
		}
	}
	top := filepath.Join(l.pods(), string(uid))
	for dir := l.volumes(uid); len(dir) >= len(top); dir = filepath.Dir(dir) {
		_ = os.Remove(dir)
	}
}

// list is what is in a directory; of one that is absent, nothing.
func list(dir string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// below are the directories in a directory that has records, with theirs. Those that cannot be read are in the error.
func below(dir string) (map[string]record, error) {
	entries, err := list(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]record{}
	var errs []error
	for _, e := range entries {
		r, ok, err := load(filepath.Join(dir, e.Name()))
		errs = append(errs, err)
		if ok {
			out[filepath.Join(dir, e.Name())] = r
		}
	}
	return out, errors.Join(errs...)
}

// withVolumes are the pods that have records.
func (l layout) withVolumes() ([]types.UID, error) {
	entries, err := os.ReadDir(l.pods())
	if err != nil {
		return nil, err
	}
	var out []types.UID
	for _, e := range entries {
		out = append(out, types.UID(e.Name()))
	}
	return out, nil
}

// stagedVolumes are the records of volumes that are staged, by their directories.
func (l layout) stagedVolumes() (map[string]record, error) {
	entries, err := list(l.staged())
	if err != nil {
		return nil, err
	}
	out := map[string]record{}
	var errs []error
	for _, e := range entries {
		of, err := below(filepath.Join(l.staged(), e.Name()))
		errs = append(errs, err)
		maps.Copy(out, of)
	}
	return out, errors.Join(errs...)
}

// of are the volumes of a pod, by the directories of their records.
func (l layout) of(uid types.UID) (map[string]record, error) { return below(l.volumes(uid)) }

// users are the volumes that pods have, with how many do.
func (l layout) users() (map[string]int, []record, error) {
	uids, err := l.withVolumes()
	if err != nil {
		return nil, nil, err
	}
	count := map[string]int{}
	var all []record
	var errs []error
	for _, uid := range uids {
		records, err := l.of(uid)
		errs = append(errs, err)
		for _, r := range records {
			count[r.volume()]++
			all = append(all, r)
		}
	}
	return count, all, errors.Join(errs...)
}

// shared says that what is mounted below a mount is seen in other mount namespaces.
func shared(i *mountinfo.Info) bool { return strings.Contains(i.Optional, "shared:") }
