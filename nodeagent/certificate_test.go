package nodeagent

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/pki"
	"lockstep/kinds"
	"lockstep/nodeagent/register"
	"lockstep/store/view"
)

// TestCertificateIsRenewed gives the node certificates of a few seconds: it
// must be served with new ones, on old connections and on new ones.
func TestCertificateIsRenewed(t *testing.T) {
	l := newLabWith(t, pki.Options{NodeLifetime: 4 * time.Second})
	l.start()
	l.ready()
	id := register.Identity{Node: l.opts.NodeName, Dir: l.agent.opts.agentDir()}
	first, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	l.eventually("the first certificate has expired", 15*time.Second, func() error {
		if now := time.Now(); now.Before(first.NotAfter.Add(time.Second)) {
			return fmt.Errorf("it is %s, it expires at %s", now, first.NotAfter)
		}
		return nil
	})
	l.eventually("the node has a certificate that holds", 10*time.Second, func() error {
		c, err := id.Certificate()
		if err == nil && !id.Joined(time.Now()) {
			err = fmt.Errorf("it expires at %s", c.NotAfter)
		}
		return err
	})
	l.bind("after", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("after")
	l.stopAPI() // every connection is new now
	l.serve(l.address)
	l.bind("later", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("later")
}

// TestAuthorityIsReplaced has the servers trust another authority, sign by it, and trust the one before no more: the node follows within a
// while of each, says so, and goes on being served; its pods notice nothing.
func TestAuthorityIsReplaced(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("before", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	started := l.running("before").Status.ContainerStatuses[0].State.Running.StartedAt
	authority := l.api.Authority
	id := register.Identity{Node: l.opts.NodeName, Dir: l.agent.opts.agentDir()}
	first, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for what, step := range []func() error{
		func() error { _, err := authority.Next(); return err }, authority.Switch, authority.Drop,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		l.eventually(fmt.Sprintf("the node follows step %d", what), 40*time.Second, func() error {
			n, ok := view.Get[*corev1.Node](l.store.View(), "", l.opts.NodeName)
			if !ok || n.Annotations[kinds.Authority] != authority.Mark() || id.Mark() != authority.Mark() {
				return fmt.Errorf("it has %s, want %s", id.Mark(), authority.Mark())
			}
			return nil
		})
	}
	now, err := id.Certificate()
	if err != nil || now.Issuer.String() != first.Issuer.String() || bytes.Equal(now.AuthorityKeyId, first.AuthorityKeyId) {
		t.Errorf("its certificate is still of the authority before: %v", err)
	}
	l.bind("after", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("after")
	if at := l.running("before").Status.ContainerStatuses[0].State.Running.StartedAt; !at.Equal(&started) {
		t.Errorf("its container started at %s, before at %s", at, started)
	}
}
