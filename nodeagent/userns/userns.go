// Package userns gives pods their ranges of user and group IDs.
package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/whole"
)

// Length is how many IDs a pod has, from 0 on in its own user namespace, as with the kubelet.
const Length = 1 << 16

// MaxPods is how many pods with ranges a node must be able to have: what it can run.
const MaxPods = 110

// Range is a run of the host's IDs; the zero value has none.
type Range struct{ First, Count uint32 }

// Default are all but the lowest, which are the host's own.
func Default() Range { return Range{First: Length, Count: math.MaxUint32 - Length + 1} }

// check says why pods cannot have their ranges out of this one; the words are the kubelet's.
func (r Range) check() error {
	switch {
	case r.First%Length != 0:
		return fmt.Errorf("kubelet user assigned ID %d is not a multiple of %d", r.First, Length)
	case r.First < Length:
		return fmt.Errorf("kubelet user assigned ID %d must be greater or equal to %d", r.First, Length)
	case r.Count%Length != 0:
		return fmt.Errorf("kubelet user assigned IDs length %d is not a multiple of %d", r.Count, Length)
	case r.Count/Length < MaxPods:
		return fmt.Errorf("kubelet user assigned IDs are not enough to support %d pods", MaxPods)
	case uint64(r.First)+uint64(r.Count) > 1<<32:
		return fmt.Errorf("kubelet user assigned IDs end beyond %d", uint32(math.MaxUint32))
	}
	return nil
}

// holds says that a pod's range that begins at first is one of r.
func (r Range) holds(first uint32) bool {
	return first%Length == 0 && first >= r.First && uint64(first)+Length <= uint64(r.First)+uint64(r.Count)
}

// askTimeout bounds getsubids, which may ask a directory service.
const askTimeout = 10 * time.Second

// Available are the IDs that pods may have: the subordinate ones of the user kubelet where the machine has that user and
// getsubids, as with the kubelet, else the default.
func Available(ctx context.Context) (Range, error) {
	const name = "kubelet"
	if _, err := user.Lookup(name); err != nil {
		if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
			return Default(), nil
		}
		return Range{}, fmt.Errorf("cannot look up user %s: %w", name, err)
	}
	program, err := exec.LookPath("getsubids")
	if errors.Is(err, exec.ErrNotFound) {
		return Default(), nil
	}
	if err != nil {
		return Range{}, fmt.Errorf("cannot find getsubids: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	uids, err := exec.CommandContext(ctx, program, name).Output()
	if err != nil {
		return Range{}, fmt.Errorf("error retrieving additional uids for user %q: %w", name, err)
	}
	gids, err := exec.CommandContext(ctx, program, "-g", name).Output()
	if err != nil {
		return Range{}, fmt.Errorf("error retrieving additional gids for user %q: %w", name, err)
	}
	if string(uids) != string(gids) {
		return Range{}, fmt.Errorf("mismatched subuids and subgids for user %q", name)
	}
	r, err := parse(string(uids))
	if err == nil {
		err = r.check()
	}
	return r, err
}

// parse reads what getsubids prints, "0: kubelet 65536 7208960": one line.
func parse(text string) (Range, error) {
	line := strings.Trim(text, "\n")
	if strings.Contains(line, "\n") {
		return Range{}, fmt.Errorf("error parsing line %q: it must contain only one line", text)
	}
	parts := strings.Fields(line)
	if len(parts) != 4 {
		return Range{}, fmt.Errorf("invalid line %q", text)
	}
	first, err1 := strconv.ParseUint(parts[2], 10, 32)
	count, err2 := strconv.ParseUint(parts[3], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return Range{}, fmt.Errorf("error parsing line %q: %w", line, err)
	}
	return Range{First: uint32(first), Count: uint32(count)}, nil
}

// Ranges are those of a node's pods, out of Available. Which pod has which is in the records of the pods alone,
// <Dir>/<uid>/userns: a range is a pod's for as long as its record is there, whatever ends and starts meanwhile.
type Ranges struct {
	Dir       string
	Available Range

	mu sync.Mutex // between looking for a free one and its record
}

// recordFile is the record's name, and its form the kubelet's.
const recordFile = "userns"

type record struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	Host      uint32 `json:"hostId"`
	Container uint32 `json:"containerId"`
	Length    uint32 `json:"length"`
}

// Take returns the first of the Length host IDs of a pod, of which it is given the lowest free ones where it has none yet. The
// pod's record is on the disk then. An error says that none is free, or which record cannot be read: who had the range of that
// one is not known.
func (r *Ranges) Take(uid types.UID) (first uint32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, err := r.of(string(uid)); err != nil || first != 0 {
		return first, err
	}
	dirs, err := os.ReadDir(r.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("user namespace: read pods from disk: %w", err)
	}
	taken := map[uint32]bool{}
	for _, d := range dirs {
		first, err := r.of(d.Name())
		if err != nil {
			return 0, err
		}
		taken[first] = true
	}
	for at := uint64(r.Available.First); r.Available.holds(uint32(at)) && at < 1<<32; at += Length {
		if !taken[uint32(at)] {
			return uint32(at), r.save(string(uid), uint32(at))
		}
	}
	return 0, errors.New("create user namespace: could not find an empty slot to allocate a user namespace")
}

// of reads a pod's record; 0 says that it has none.
func (r *Ranges) of(uid string) (first uint32, err error) {
	data, err := os.ReadFile(filepath.Join(r.Dir, uid, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var rec record
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		return 0, fmt.Errorf("user namespace: invalid user namespace mappings file of pod %s: %w", uid, err)
	}
	if len(rec.UIDs) != 1 || len(rec.GIDs) != 1 || rec.UIDs[0] != rec.GIDs[0] || rec.UIDs[0].Container != 0 ||
		rec.UIDs[0].Length != Length || !Default().holds(rec.UIDs[0].Host) {
		return 0, fmt.Errorf("user namespace: invalid user namespace configuration of pod %s: %s", uid, data)
	}
	return rec.UIDs[0].Host, nil
}

func (r *Ranges) save(uid string, first uint32) error {
	m := []mapping{{Host: first, Length: Length}}
	data, err := json.Marshal(record{UIDs: m, GIDs: m})
	if err == nil {
		err = os.MkdirAll(filepath.Join(r.Dir, uid), 0o700)
	}
	if err == nil {
		err = whole.Write(filepath.Join(r.Dir, uid, recordFile), data)
	}
	if err != nil {
		return fmt.Errorf("create user namespace: %w", err)
	}
	return nil
}
