package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// parallelRemovals bounds what is removed at a time.
	parallelRemovals = 8
	// republishAfter is how often volumes of drivers that ask for it are published again, and about the kubelet's.
	republishAfter = time.Minute
)

// Unpublish ends the volumes that a pod has; what is staged of them goes when no pod has it any more. Calling it again, or for a
// pod that has none, does nothing and succeeds. An error says what may still be mounted.
func (m *Manager) Unpublish(ctx context.Context, uid types.UID) error {
	records, err := m.dirs.of(uid)
	errs := []error{err}
	for dir, r := range records {
		errs = append(errs, m.unpublish(ctx, uid, dir, r))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	m.dirs.drop(uid)
	if len(records) > 0 {
		m.changed()
	}
	return nil
}

func (m *Manager) unpublish(ctx context.Context, uid types.UID, dir string, r record) error {
	target := m.dirs.target(uid, r.Name, r.Block)
	unlock, err := m.lock(ctx, target)
	if err != nil {
		return err
	}
	defer unlock()
	if r.Step != staging {
		d, err := m.driver(r.Driver)
		if err != nil {
			return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %s: Unmounter.TearDownAt failed to get CSI client: %w",
				r.Name, plugin, err)
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		request := &csipb.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: m.dirs.seen(target)}
		if _, err := d.node.NodeUnpublishVolume(bounded, request); err != nil {
			return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %s: Unmounter.TearDownAt failed: %w", r.Name, plugin, err)
		}
	}
	m.mu.Lock()
	delete(m.again, target)
	m.mu.Unlock()
	if err := removeMountPoint(target); err != nil {
		return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", r.Name, err)
	}
	if r.Block {
		_ = os.Remove(filepath.Dir(target)) // other pods may be in it
	}
	return forget(dir)
}

// InUse are the volumes that pods of this node have, or that are staged here, by the names that a node's status has for them; those
// that are never attached are left out.
func (m *Manager) InUse() ([]corev1.UniqueVolumeName, error) {
	_, used, err := m.dirs.users()
	stagedRecords, stagedErr := m.dirs.stagedVolumes()
	for _, r := range stagedRecords {
		used = append(used, r)
	}
	seen := map[corev1.UniqueVolumeName]bool{}
	var out []corev1.UniqueVolumeName
	for _, r := range used {
		if name := corev1.UniqueVolumeName(r.volume()); r.Attached && !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out, errors.Join(err, stagedErr)
}

// removal is something that could not be removed yet.
type removal struct {
	running bool
	wait    time.Duration
	next    time.Time
}

// sweep unstages what no pod has any more, and unpublishes what pods have that nobody knows, until ctx ends. What fails is tried
// again.
func (m *Manager) sweep(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	left := map[string]*removal{}
	room := make(chan struct{}, parallelRemovals)
	try := func(name string, now time.Time, do func() error) (again time.Time) {
		mu.Lock()
		defer mu.Unlock()
		r := left[name]
		if r == nil {
			r = &removal{wait: firstRetry}
			left[name] = r
		}
		if r.running {
			return time.Time{}
		}
		if now.Before(r.next) {
			return r.next
		}
		select {
		case room <- struct{}{}:
		default:
			return now.Add(firstRetry)
		}
		r.running = true
		running.Go(func() {
			err := do()
			<-room
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				delete(left, name)
			} else {
				r.running, r.next = false, time.Now().Add(r.wait)
				r.wait = min(2*r.wait, lastRetry)
				if ctx.Err() == nil {
					m.opts.Log.Warn("cannot remove a CSI volume", "volume", name, "error", err, "again", r.next)
				}
			}
			poke(m.wake)
		})
		return time.Time{}
	}
	for {
		now, next := time.Now(), time.Time{}
		soonest := func(at time.Time) {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
		uids, err := m.dirs.withVolumes()
		if err != nil {
			m.opts.Log.Warn("cannot look for CSI volumes", "error", err)
		}
		for _, uid := range uids {
			if records, err := m.dirs.of(uid); !m.opts.Knows(uid) && (err != nil || len(records) > 0) {
				soonest(try("of pod "+string(uid), now, func() error { return m.Unpublish(ctx, uid) }))
			}
		}
		count, _, countErr := m.dirs.users()
		stagedRecords, err := m.dirs.stagedVolumes()
		if err != nil || countErr != nil {
			m.opts.Log.Warn("cannot look for CSI volumes", "error", errors.Join(err, countErr))
		}
		for dir, r := range stagedRecords {
			if count[r.volume()] == 0 && countErr == nil {
				soonest(try(r.volume(), now, func() error { return m.unstage(ctx, dir, r) }))
			}
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer:
		}
	}
}

// unstage ends what is staged of a volume, unless a pod has it.
func (m *Manager) unstage(ctx context.Context, dir string, r record) error {
	unlock, err := m.lock(ctx, r.volume())
	if err != nil {
		return err
	}
	defer unlock()
	if count, _, err := m.dirs.users(); err != nil || count[r.volume()] > 0 {
		return err
	}
	d, err := m.driver(r.Driver)
	if err != nil {
		return fmt.Errorf("UnmountDevice failed for volume %q : %w", r.Name, err)
	}
	path := m.dirs.stagingPath(r.Driver, r.Handle, r.Name, r.Block)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request := &csipb.NodeUnstageVolumeRequest{VolumeId: r.Handle, StagingTargetPath: m.dirs.seen(path)}
	if _, err := d.node.NodeUnstageVolume(bounded, request); err != nil {
		return fmt.Errorf("UnmountDevice failed for volume %q : %s: attacher.UnmountDevice failed: %w", r.Name, plugin, err)
	}
	if err := removeMountPoint(path); err != nil {
		return fmt.Errorf("UnmountDevice failed for volume %q : %w", r.Name, err)
	}
	if err := forget(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // the driver may have others in it
	m.opts.Changed()
	return nil
}

// republish is a volume that is published again and again.
type republish struct {
	volume Volume
	last   time.Time // when it was published
	busy   bool      // it is being published
}

// remember has a volume published again and again, if its driver asks for it.
func (m *Manager) remember(v *Volume, r record, target string) {
	if !r.Again {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.again[target] == nil {
		m.again[target] = &republish{volume: *v, last: time.Now()}
	}
}

// republish publishes volumes again whose drivers ask for it, until ctx ends. One that fails stays mounted as it is, and one that
// hangs keeps no other one waiting.
func (m *Manager) republish(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	t := time.NewTicker(republishAfter / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		m.mu.Lock()
		for target, r := range m.again {
			if r.busy || time.Since(r.last) < republishAfter {
				continue
			}
			r.busy = true
			running.Go(func() {
				if err := m.publishAgain(ctx, &r.volume, target); err != nil && ctx.Err() == nil {
					m.opts.Events(r.volume.Pod, corev1.EventTypeWarning, "FailedMount", failed("MountVolume.SetUp", &r.volume, err).Error())
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				r.busy, r.last = false, time.Now()
			})
		}
		m.mu.Unlock()
	}
}

func (m *Manager) publishAgain(ctx context.Context, v *Volume, target string) error {
	unlock, err := m.lock(ctx, target)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(m.dirs.volumes(v.Pod.UID), v.Name)
	r, ok, err := load(dir)
	if err != nil || !ok || r.Step != published {
		return err
	}
	u := &use{record: r}
	if u.driver, err = m.driver(v.Source.Driver); err != nil {
		return err
	}
	if u.object, err = m.object(ctx, v.Source.Driver); err != nil {
		return err
	}
	if r.Attached {
		a, err := m.opts.Cluster.Attachment(ctx, r.Attachment)
		if err != nil {
			return err
		}
		u.context = a.Status.AttachmentMetadata
	}
	return m.publish(ctx, v, u, dir, target)
}
