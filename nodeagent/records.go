package nodeagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/pods"
)

// records keep on disk what must outlive the agent and a reboot: each pod's
// newest object, and how each of its containers' instances stands.
//
//	<dir>/<uid>/pod.json
//	<dir>/<uid>/containers/<name>.<attempt>.json
//	<dir>/<uid>/messages/<name>.<attempt>
type records struct{ dir string }

// savePod keeps the pod's object, before anything is done for it.
func (r records) savePod(o *corev1.Pod) error {
	o = o.DeepCopy()
	o.ManagedFields = nil
	data, err := json.Marshal(o)
	if err == nil {
		err = os.MkdirAll(filepath.Join(r.dir, string(o.UID)), 0o700)
	}
	if err == nil {
		err = replaceFile(filepath.Join(r.dir, string(o.UID), "pod.json"), data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep pod %s/%s: %w", o.Namespace, o.Name, err)
	}
	return nil
}

// loadPods returns all pods that were kept. A file that cannot be read is an
// error beside the others.
func (r records) loadPods() ([]*corev1.Pod, error) {
	dirs, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read kept pods: %w", err)
	}
	var out []*corev1.Pod
	var errs []error
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(r.dir, d.Name(), "pod.json"))
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

// dropPod forgets a pod with all its instances.
func (r records) dropPod(uid types.UID) error {
	if err := os.RemoveAll(filepath.Join(r.dir, string(uid))); err != nil {
		return fmt.Errorf("cannot forget pod: %w", err)
	}
	return nil
}

// keptInstance is an instance as it is kept.
type keptInstance struct {
	pods.Container
	StopSignal string `json:",omitempty"`
}

func (r records) instanceFile(uid types.UID, name string, attempt int) string {
	return filepath.Join(r.dir, string(uid), "containers", name+"."+strconv.Itoa(attempt)+".json")
}

// save keeps an instance.
func (r records) save(uid types.UID, i *instance) error {
	path := r.instanceFile(uid, i.Name, i.Attempt)
	data, err := json.Marshal(keptInstance{i.Container, i.StopSignal})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replaceFile(path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot keep container %s: %w", i.Name, err)
	}
	return nil
}

// drop forgets an instance; an absent one is no error.
func (r records) drop(uid types.UID, name string, attempt int) error {
	message := filepath.Join(r.dir, string(uid), "messages", name+"."+strconv.Itoa(attempt))
	for _, path := range []string{r.instanceFile(uid, name, attempt), message} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot forget container %s: %w", name, err)
		}
	}
	return nil
}

// load returns the instances of a pod; files that cannot be read are left out,
// since containerd has the rest of the truth.
func (r records) load(uid types.UID) map[string]*instance {
	out := map[string]*instance{}
	files, _ := filepath.Glob(filepath.Join(r.dir, string(uid), "containers", "*.json"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		var rec keptInstance
		if err == nil && json.Unmarshal(data, &rec) == nil {
			out[rec.ID] = &instance{Container: rec.Container, StopSignal: rec.StopSignal, changed: time.Time{}}
		}
	}
	return out
}

// terminationLog is the host file behind an instance's termination message;
// it is made if absent, writable by any user of the container.
func (r records) terminationLog(uid types.UID, name string, attempt int) (string, error) {
	dir := filepath.Join(r.dir, string(uid), "messages")
	path := filepath.Join(dir, name+"."+strconv.Itoa(attempt))
	err := os.MkdirAll(dir, 0o711)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666); err == nil {
			err = errors.Join(f.Chmod(0o666), f.Close())
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot make termination log of container %s: %w", name, err)
	}
	return path, nil
}

// replaceFile writes a private file whole or not at all. Of several writers at once, one is the last.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
