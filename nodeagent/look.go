package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"lockstep/internal/sleep"
	"lockstep/kinds/drift"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
)

const (
	// lookPeriod is how often it is looked whether what was made is still so: some files of each container, a few milliseconds of work
	// for a node of a hundred pods.
	lookPeriod = 15 * time.Second
	// freezeTime is how long processes may stand still before somebody is said to have paused them: runc has them do so for a moment
	// while it changes a container.
	freezeTime = 300 * time.Millisecond
)

// looks remembers what was seen of the node.
type looks struct {
	standing map[string]time.Time  // since when what could not be repaired is known, by its finding without the time
	routes   map[netip.Prefix]bool // that were there
}

// look finds what is not as it was made and puts it right, until ctx ends: what no event tells.
func (a *Agent) look(ctx context.Context) error {
	l := looks{standing: map[string]time.Time{}}
	t := time.NewTicker(a.lookEvery)
	defer t.Stop()
	before := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := time.Now()
		for _, f := range a.lookAtNode(&l) {
			a.put(&l, f, before)
		}
		for _, p := range a.allPods() {
			for _, f := range a.lookAtPod(ctx, p) {
				a.put(&l, f, before)
			}
		}
		for key, since := range l.standing {
			if since.Before(now.Add(-time.Hour)) {
				delete(l.standing, key) // told again then, if it is still so
			}
		}
		before = now
	}
}

// put tells a finding of a look, which was not so at the look before; one that cannot be repaired once an hour.
func (a *Agent) put(l *looks, f drift.Finding, before time.Time) {
	key := f.ID
	if since, ok := l.standing[key]; ok && f.Repaired.IsZero() {
		return
	} else if ok {
		f.Noticed = since
	}
	if f.Noticed.IsZero() {
		f.Noticed = time.Now()
	}
	delete(l.standing, key)
	if f.Repaired.IsZero() {
		l.standing[key] = f.Noticed
	}
	f.ID = fmt.Sprintf("%s/%d", key, f.Noticed.UnixNano())
	f.Since = before
	a.differs(f)
}

// lookAtNode finds routes to other nodes' pods that were there and are gone.
func (a *Agent) lookAtNode(l *looks) (out []drift.Finding) {
	a.mu.Lock()
	want := maps.Clone(a.routes)
	a.mu.Unlock()
	have, err := network.PresentRoutes(want)
	if err != nil {
		a.log.Warn("cannot list routes", "error", err)
		return out
	}
	var lost []string
	for dst := range want {
		if l.routes[dst] && !have[dst] {
			lost = append(lost, fmt.Sprintf("%s via %s is missing", dst, want[dst]))
		}
	}
	l.routes = have
	if len(lost) > 0 {
		slices.Sort(lost)
		out = append(out, outcome(drift.Finding{ID: "routes", Kind: drift.Route, Place: "main table", Evidence: lost,
			What: fmt.Sprintf("%d of %d routes to other nodes' pods are gone, the first: %s", len(lost), len(want), lost[0])},
			network.SetRoutes(want)))
	}
	return out
}

// outcome completes a finding by what came of its repair.
func outcome(f drift.Finding, err error) drift.Finding {
	if err != nil {
		f.How = "it cannot be put right: " + err.Error()
		return f
	}
	f.Repaired, f.How = time.Now(), "put right"
	return f
}

// lookAtPod finds what of a pod's cgroups has changed: processes that stand still, and limits.
func (a *Agent) lookAtPod(ctx context.Context, p *pod.Pod) (out []drift.Finding) {
	made, ok := p.Made()
	if !ok {
		return nil
	}
	for _, g := range made.Groups {
		of := func(kind drift.Kind, what string, evidence []string) drift.Finding {
			return drift.Finding{ID: string(kind) + "/" + g.Cgroup, Kind: kind, Pod: pods.DriftOf(made.Pod), Place: g.Name, What: what,
				Evidence: append(evidence, "cgroup "+g.Cgroup)}
		}
		if file, frozen := cgroup.Frozen(g.Cgroup); frozen && a.staysFrozen(ctx, p, g.Cgroup) {
			out = append(out, outcome(of(drift.Paused, "its processes stood still: "+file, nil), a.thaw(ctx, g)))
		}
		if changed := cgroup.Differences(g.Cgroup, g.Limits); len(changed) > 0 && p.Still(made) {
			out = append(out, a.limitAnew(ctx, g, of(drift.Limits, changed[0].String(), texts(changed))))
		}
	}
	return out
}

func texts(changed []cgroup.Difference) (out []string) {
	for _, d := range changed {
		out = append(out, d.String())
	}
	return out
}

// staysFrozen says that nothing which is done to a pod has its processes stand still for a moment.
func (a *Agent) staysFrozen(ctx context.Context, p *pod.Pod, path string) bool {
	if !sleep.For(ctx, freezeTime) {
		return false
	}
	_, frozen := cgroup.Frozen(path)
	_, idle := p.Made()
	return frozen && idle
}

// thaw lets the processes of a group go on; containerd is told too, where it was asked to have them pause.
func (a *Agent) thaw(ctx context.Context, g pod.Group) error {
	var err error
	if g.ID != "" {
		err = a.rt.Resume(ctx, g.ID)
	}
	if _, frozen := cgroup.Frozen(g.Cgroup); frozen {
		return errors.Join(err, cgroup.Thaw(g.Cgroup))
	}
	return nil
}

// limitAnew gives a group its limits anew, and looks whether it has them.
func (a *Agent) limitAnew(ctx context.Context, g pod.Group, f drift.Finding) drift.Finding {
	var err error
	if g.ID == "" {
		err = cgroup.Make(g.Cgroup, g.Limits)
	} else {
		err = a.rt.Resize(ctx, g.ID, g.Limits)
	}
	if left := cgroup.Differences(g.Cgroup, g.Limits); err == nil && len(left) > 0 {
		err = errors.New(strings.Join(texts(left), "; "))
	}
	f = outcome(f, err)
	if err == nil {
		f.How = "written back"
	}
	return f
}

// paused looks at once at a pod of which containerd says that a container was paused.
func (a *Agent) paused(ctx context.Context, p *pod.Pod) {
	for _, f := range a.lookAtPod(ctx, p) {
		f.Noticed = time.Now()
		f.Since, f.ID = f.Noticed, fmt.Sprintf("%s/%d", f.ID, f.Noticed.UnixNano())
		a.differs(f)
	}
}
