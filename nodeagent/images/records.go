package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"lockstep/internal/whole"
	"lockstep/nodeagent/access"
)

// pulledLabel marks an image that this node has pulled, with the name of the boot in which it was. containerd writes it with the
// image itself, so that nothing comes between.
const pulledLabel = "lockstep.dev/pulled"

// mayUse says whether a pod may have an image that is here, stated by that name, without pulling it.
func (m *Manager) mayUse(stated string, image *Image, keys func() keys) bool {
	of := image.Containerd.Target().Digest
	record, err := m.record(of)
	_, pulled := image.Containerd.Labels()[pulledLabel]
	if !m.verify.Asks(stated, pulled || err != nil || len(record.Access) > 0) {
		return true
	}
	if err != nil || len(record.Access) == 0 {
		return false // the registry is asked
	}
	name := repository(image.Name)
	if record.Access[name].Anyone {
		return true
	}
	ok, learned := record.Admits(name, keys().secrets())
	if ok && len(learned.Secrets) > 0 {
		_ = m.note(name, of, learned) // what is not noted is asked again
	}
	return ok
}

// record is what is known of how the image with that digest came; the zero value where nothing is. The error is about a file that
// cannot be read.
func (m *Manager) record(of digest.Digest) (access.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readRecord(of)
}

// readRecord is record; m.mu is held.
func (m *Manager) readRecord(of digest.Digest) (access.Record, error) {
	if r, ok := m.records[of]; ok {
		return r, nil
	}
	r := access.Record{Image: of.String()}
	if m.recordsDir != "" {
		data, err := os.ReadFile(m.recordFile(of))
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	m.records[of] = r
	return r, nil
}

func (m *Manager) recordFile(of digest.Digest) string {
	return filepath.Join(m.recordsDir, of.Encoded())
}

// note keeps with what an image was pulled from a repository, for the next pod and the next start.
func (m *Manager) note(repository string, of digest.Digest, by access.Access) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.readRecord(of)
	if err != nil { // a damaged record says nothing
		old = access.Record{Image: of.String()}
	}
	r, changed := old.Add(repository, by)
	if !changed {
		return nil
	}
	if m.recordsDir != "" {
		data, err := json.Marshal(r)
		if err == nil {
			err = whole.Write(m.recordFile(of), data)
		}
		if err != nil {
			return fmt.Errorf("cannot record how image %s@%s came: %w", repository, of, err)
		}
	}
	m.records[of] = r
	return nil
}

// forget drops the records of images that are not here, as was seen at that time.
func (m *Manager) forget(here func(digest.Digest) bool, seen time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recordsDir == "" {
		return
	}
	entries, err := os.ReadDir(m.recordsDir)
	if err != nil {
		return
	}
	maps.DeleteFunc(m.records, func(of digest.Digest, _ access.Record) bool { return !here(of) }) // read again, if it stays
	for _, e := range entries {
		of := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		info, err := e.Info()
		if of.Validate() == nil && !here(of) && err == nil && info.ModTime().Before(seen) {
			_ = os.Remove(filepath.Join(m.recordsDir, e.Name())) // the next time, at worst
		}
	}
}
