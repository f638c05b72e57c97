package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/whole"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/pods"
)

// Records keep on disk what must outlive the agent and a reboot: each pod's
// newest object, its devices, and how each of its containers' instances stands.
//
//	<dir>/<uid>/pod.json
//	<dir>/<uid>/devices.json
//	<dir>/<uid>/userns             of userns.Ranges
//	<dir>/<uid>/containers/<name>.<attempt>.json
//	<dir>/<uid>/messages/<name>.<attempt>
type Records struct{ Dir string }

// SavePod keeps the pod's object, before anything is done for it.
func (r Records) SavePod(o *corev1.Pod) error { return r.savePod(o, whole.Write) }

// savePodAgain keeps a newer object of a pod that is kept; a power cut may leave the one before.
func (r Records) savePodAgain(o *corev1.Pod) error { return r.savePod(o, whole.Replace) }

func (r Records) savePod(o *corev1.Pod, write func(path string, data []byte) error) error {
	o = o.DeepCopy()
	o.ManagedFields = nil
	data, err := json.Marshal(o)
	if err == nil {
		err = os.MkdirAll(filepath.Join(r.Dir, string(o.UID)), 0o700)
	}
	if err == nil {
		err = write(filepath.Join(r.Dir, string(o.UID), "pod.json"), data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep pod %s/%s: %w", o.Namespace, o.Name, err)
	}
	return nil
}

func (r Records) devicesFile(uid types.UID) string {
	return filepath.Join(r.Dir, string(uid), "devices.json")
}

// saveDevices keeps which devices a pod has, if any.
func (r Records) saveDevices(uid types.UID, d pods.Devices) error {
	if len(d) == 0 {
		return nil
	}
	data, err := json.Marshal(d)
	if err == nil {
		err = os.MkdirAll(filepath.Join(r.Dir, string(uid)), 0o700)
	}
	if err == nil {
		err = whole.Write(r.devicesFile(uid), data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep devices: %w", err)
	}
	return nil
}

// loadDevices returns those that were kept.
func (r Records) loadDevices(uid types.UID) (pods.Devices, error) {
	data, err := os.ReadFile(r.devicesFile(uid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var d pods.Devices
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read kept devices: %w", err)
	}
	return d, nil
}

// LoadPods returns all pods that were kept. A file that cannot be read is an
// error beside the others.
func (r Records) LoadPods() ([]*corev1.Pod, error) {
	dirs, err := os.ReadDir(r.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read kept pods: %w", err)
	}
	var out []*corev1.Pod
	var errs []error
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(r.Dir, d.Name(), "pod.json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var o corev1.Pod
		if err == nil {
			err = json.Unmarshal(data, &o)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read kept pod %s: %w", d.Name(), err))
			continue
		}
		out = append(out, &o)
	}
	return out, errors.Join(errs...)
}

// DropPod forgets a pod with all its instances.
func (r Records) DropPod(uid types.UID) error {
	if err := os.RemoveAll(filepath.Join(r.Dir, string(uid))); err != nil {
		return fmt.Errorf("cannot forget pod: %w", err)
	}
	return nil
}

// keptInstance is an instance as it is kept.
type keptInstance struct {
	pods.Container
	StopSignal string `json:",omitempty"`
}

func (r Records) instanceFile(uid types.UID, name string, attempt int) string {
	return filepath.Join(r.Dir, string(uid), "containers", name+"."+strconv.Itoa(attempt)+".json")
}

// save keeps an instance.
func (r Records) save(uid types.UID, i *instance) error {
	path := r.instanceFile(uid, i.Name, i.Attempt)
	data, err := json.Marshal(keptInstance{i.Container, i.StopSignal})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = whole.Write(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep container %s: %w", i.Name, err)
	}
	return nil
}

// forget forgets an instance that has not been; an absent one is no error.
func (r Records) forget(uid types.UID, name string, attempt int) error {
	return removeFile(name, r.instanceFile(uid, name, attempt))
}

// drop forgets an instance with what it left as its last words; an absent one is no error.
func (r Records) drop(uid types.UID, name string, attempt int) error {
	return errors.Join(r.forget(uid, name, attempt), removeFile(name, r.messageFile(uid, name, attempt)))
}

func removeFile(container, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot forget container %s: %w", container, err)
	}
	return nil
}

// Instances are the IDs of a pod's instances that are kept.
func (r Records) Instances(uid types.UID) []string { return slices.Collect(maps.Keys(r.load(uid))) }

// load returns the instances of a pod; files that cannot be read are left out,
// since containerd has the rest of the truth.
func (r Records) load(uid types.UID) map[string]*instance {
	out := map[string]*instance{}
	files, _ := filepath.Glob(filepath.Join(r.Dir, string(uid), "containers", "*.json"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		var rec keptInstance
		if err == nil && json.Unmarshal(data, &rec) == nil {
			out[rec.ID] = &instance{Container: rec.Container, StopSignal: rec.StopSignal, changed: time.Time{}}
		}
	}
	return out
}

// messageFile is where an instance's termination message is. Its container has
// the file mounted, and none of the directories.
func (r Records) messageFile(uid types.UID, name string, attempt int) string {
	return filepath.Join(r.Dir, string(uid), "messages", name+"."+strconv.Itoa(attempt))
}

// terminationLog is the host file behind an instance's termination message;
// it is made if absent, writable by any user of the container.
func (r Records) terminationLog(uid types.UID, name string, attempt int) (string, error) {
	path := r.messageFile(uid, name, attempt)
	err := os.MkdirAll(filepath.Dir(path), 0o711)
	var dir *beneath.Dir
	if err == nil {
		dir, err = beneath.Open(filepath.Dir(path))
	}
	if err == nil {
		defer dir.Close()
		if err = dir.Create(filepath.Base(path), nil, beneath.Attr{Mode: 0o666}); errors.Is(err, os.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot make termination log of container %s: %w", name, err)
	}
	return path, nil
}

// takeMessage returns the end of an instance's termination message, at most so
// many bytes, and frees what is longer; empty if there is none.
func (r Records) takeMessage(uid types.UID, name string, attempt, most int) (string, error) {
	path := r.messageFile(uid, name, attempt)
	dir, err := beneath.Open(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dir.Close()
	f, err := dir.File(filepath.Base(path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(info.Size()-int64(most), 0), int64(most)))
	if err != nil || info.Size() <= int64(most) {
		return string(data), err
	}
	err = dir.Unlink(filepath.Base(path))
	if err == nil {
		err = dir.Create(filepath.Base(path), data, beneath.Attr{Mode: 0o666})
	}
	return string(data), err
}
