package nodeagent

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/pki"
	"lockstep/nodeagent/register"
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
