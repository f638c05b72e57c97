package daemon

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/control"
	"lockstep/daemon/pki"
	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/view"
)

// rotationEvery is how often a server looks whether the cluster's CA is being replaced. A replacement takes minutes.
const rotationEvery = 2 * time.Second

// keepAuthority has this server's CA be the cluster's until ctx ends.
func (p *plane) keepAuthority(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.store.Ready():
	}
	failing := false
	for sleep.For(ctx, rotationEvery) {
		bounded, cancel := context.WithTimeout(ctx, 5*rotationEvery)
		err := p.authority.Follow(bounded, p.store.View(), p.store, p.opts.Name, p.peers.Authority)
		cancel()
		if err != nil && ctx.Err() == nil && !failing && !store.Outage(err) {
			p.opts.Log.Warn("this server does not have the cluster's new CA yet", "error", err)
		}
		failing = err != nil
	}
	return nil
}

// advanceRotation brings the replacement of the cluster's CA to its next phase as soon as nobody needs the one before, until ctx ends. It
// is the leader's.
func (p *plane) advanceRotation(ctx context.Context, c store.Committer) error {
	for sleep.For(ctx, rotationEvery) {
		v, now := p.store.View(), time.Now()
		if r, found, err := pki.Rotating(v); err == nil && (!found || r.Phase == pki.PhaseDone) {
			continue // who has what is read of all nodes and users
		}
		went, err := pki.Advance(ctx, v, c, p.standing(v, now), false, now)
		if err != nil && ctx.Err() == nil && !store.Outage(err) {
			p.opts.Log.Warn("the replacement of the cluster's CA does not go on", "error", err)
		}
		if went {
			r, _, _ := pki.Rotating(v)
			p.opts.Log.Info("the replacement of the cluster's CA goes on", "after", r.Phase)
		}
	}
	return nil
}

// standing is who has what of the cluster's CA.
func (p *plane) standing(v *view.View, now time.Time) pki.Standing {
	var servers []string
	for _, s := range apiservers.Servers(v, now) {
		servers = append(servers, s.Name)
	}
	nodes := map[string]string{}
	for n := range view.List[*corev1.Node](v, "") {
		nodes[n.Name] = n.Annotations[kinds.Authority]
	}
	s := pki.StandingIn(v, servers, nodes, now)
	s.Peers = len(p.opts.Etcd.Endpoints) == 0
	return s
}

// errOtherCA ends the loops that were begun with the CA of before.
var errOtherCA = errors.New("the cluster's CA is another one")

// reconcile runs the loops, which are given the cluster's CA: anew when that is another one.
func (p *plane) reconcile(loops func() []loop.Reconciler, o engine.Options) func(context.Context) error {
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			changed := p.authority.Changed()
			g, term := errgroup.WithContext(ctx)
			g.Go(func() error {
				select {
				case <-changed:
					return errOtherCA
				case <-term.Done():
					return nil
				}
			})
			g.Go(func() error { return engine.New(loops(), o).Run(term) })
			if err := g.Wait(); err != nil && !errors.Is(err, errOtherCA) {
				return err
			}
		}
		return nil
	}
}

// RotateCA implements control.Backend.
func (d *door) RotateCA(ctx context.Context, drop bool) error {
	if err := d.ready(); err != nil {
		return err
	}
	if !drop {
		return d.authority.Rotate(ctx, d.store.View(), d.store)
	}
	v, now := d.store.View(), time.Now()
	return pki.DropOld(ctx, v, d.store, d.standing(v, now), now)
}

// CA implements control.Backend.
func (d *door) CA(context.Context) (control.CAReport, error) {
	if err := d.ready(); err != nil {
		return control.CAReport{}, err
	}
	v, now := d.store.View(), time.Now()
	report := control.CAReport{Pin: d.authority.Pin(), Until: d.authority.Until()}
	r, found, err := pki.Rotating(v)
	if err != nil || !found {
		return report, err
	}
	report.Phase, report.Since = r.Phase, r.Since
	report.Waits, err = r.Waits(d.standing(v, now))
	return report, err
}
