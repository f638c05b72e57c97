package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"lockstep/daemon/control"
	"lockstep/daemon/etcd"
	"lockstep/daemon/members"
	"lockstep/reconcilers/apiservers"
	"lockstep/store"
	"lockstep/store/view"
)

// servers are those of the cluster by name: the members of an embedded etcd, or, where it is external, those that have told of
// themselves. Standing is what is wrong with their number.
func (p *plane) servers(v *view.View, now time.Time) (list []control.ServerReport, standing string) {
	leader := p.store.Leader()
	known := map[string]apiservers.Server{}
	for _, s := range apiservers.Servers(v, now) {
		known[s.Name] = s
	}
	all := p.etcd.Members()
	if !p.etcd.Embedded() {
		for name := range known {
			all = append(all, etcd.Member{Name: name, Self: name == p.opts.Name})
		}
	}
	for _, m := range all {
		s := control.ServerReport{Name: cmp.Or(m.Name, m.PeerURL), Peer: m.PeerURL, Self: m.Self, Role: "server"}
		is, told := known[m.Name]
		switch {
		case m.Name == "":
			s.Role = "joining"
		case m.Learner:
			s.Role = "stand-by"
		case m.Name == leader:
			s.Role = "leader"
		}
		if told {
			s.Address = is.At.String()
		}
		if !m.Learner && m.Name != "" && !m.Self && !is.Runs {
			s.Silence = "was never heard of"
			if told {
				s.Silence = "silent for " + duration.HumanDuration(now.Sub(is.Renewed))
			}
			s.Advice = fmt.Sprintf("server %s is %s: bring it back; or, if it is lost, lockstep server remove %s, and have another join "+
				"with the token of lockstep server token", s.Name, strings.TrimPrefix(s.Silence, "is "), s.Name)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b control.ServerReport) int { return strings.Compare(a.Name, b.Name) })
	return list, members.Standing(p.etcd.Members())
}

// several says whether the cluster has other servers.
func (p *plane) several() bool {
	list, _ := p.servers(p.store.View(), time.Now())
	return len(list) > 1
}

// silent says which servers are not heard of; empty: all are.
func (p *plane) silent() string {
	list, _ := p.servers(p.store.View(), time.Now())
	var texts []string
	for _, s := range list {
		if s.Advice != "" {
			texts = append(texts, s.Advice)
		}
	}
	return strings.Join(texts, "; ")
}

// quorum says that there is no majority of servers.
func (p *plane) quorum() error {
	if p.etcd.Led() {
		return nil
	}
	n := 0
	for _, m := range p.etcd.Members() {
		if !m.Learner {
			n++
		}
	}
	return fmt.Errorf("there is no majority of the %d servers: nothing can be changed until %d of them reach each other, and what is read "+
		"is as it was; if they are lost for good, see lockstep server reset-quorum", n, n/2+1)
}

// RemoveServer implements control.Backend.
func (d *door) RemoveServer(ctx context.Context, name string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("cannot remove server %s: %w", name, err) }
	if err := d.ready(); err != nil {
		return fail(err)
	}
	all := d.etcd.Members()
	at := slices.IndexFunc(all, func(m etcd.Member) bool { return cmp.Or(m.Name, m.PeerURL) == name })
	switch {
	case at < 0 && d.etcd.Embedded():
		return fail(errors.New("there is none of this name: lockstep server list names them"))
	case at >= 0 && len(all) == 1:
		return fail(errors.New("it is the only one; lockstep reset removes it with all its data"))
	case at >= 0:
		if err := d.etcd.Remove(ctx, all[at].ID); err != nil {
			return fail(explained(err))
		}
	}
	if lease := apiservers.Key(name); d.store.View().Get(lease) != nil {
		group := store.Group{{Key: lease, If: store.Anyway, Reason: "server removed"}, members.Forget(name)}
		if err := d.store.Commit(ctx, group)[0].Err; err != nil {
			return fail(fmt.Errorf("its etcd is removed, and its entry is not: %w", err))
		}
	} else if at < 0 {
		return fail(errors.New("there is none of this name: lockstep server list names them"))
	}
	d.opts.Log.Warn("a server is removed", "server", name)
	text := fmt.Sprintf("server %s is removed, and its name is free; it has the cluster's keys still, until its data are removed", name)
	left := slices.DeleteFunc(all, func(m etcd.Member) bool { return cmp.Or(m.Name, m.PeerURL) == name })
	if standing := members.Standing(left); standing != "" {
		text += "; " + standing
	}
	return text, nil
}

// explained says what etcd's refusals mean.
func explained(err error) error {
	if text := err.Error(); strings.Contains(text, "unhealthy cluster") || strings.Contains(text, "not enough started members") {
		return fmt.Errorf("the servers that would be left are no majority that works: bring one of the silent ones back, or remove "+
			"a silent one first (%w)", err)
	}
	return err
}
