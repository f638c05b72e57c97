package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/control"
	"lockstep/daemon/pki"
	"lockstep/internal/eventually"
	"lockstep/kinds"
)

// rotates says how far the replacement of the CA is, as a server tells it.
func (s *one) rotates(t *testing.T) control.CAReport {
	t.Helper()
	report, err := control.Dial(s.opts.RunDir).CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestRotateCA replaces the CA of two servers with nodes: who has a kubeconfig of before reads until the old CA is dropped, one of the new
// CA afterwards; nodes are ready and reached all the time, kube-root-ca.crt follows, and a server that was stopped meanwhile catches up.
func TestRotateCA(t *testing.T) {
	all := several(t, "s1", "s2")
	nodes := []*lite{newLite(t, "n1", all), newLite(t, "n2", all)}
	reached := func() string {
		for _, s := range all {
			for _, n := range nodes {
				if s.end == nil {
					continue
				}
				if text, err := s.ask(t.Context(), n.name); err != nil || text != n.name {
					return fmt.Sprintf("%s through %s: %q, %v", n.name, s.name, text, err)
				}
			}
		}
		return ""
	}
	why := ""
	eventually.True(t, 20*time.Second, "each node is reached through each server", func() bool { why = reached(); return why == "" })
	before := all[0].rotates(t)
	bundle := func() int {
		root, err := all[0].viewer.CoreV1().ConfigMaps("kube-system").Get(t.Context(), kinds.RootCA, metav1.GetOptions{})
		if err != nil {
			return 0
		}
		return strings.Count(root.Data["ca.crt"], "BEGIN CERTIFICATE")
	}
	eventually.True(t, 20*time.Second, "pods are given the CA", func() bool { return bundle() == 1 })

	// One server is away when it begins, which keeps it from signing by the new CA.
	all[1].stop(t)
	if err := control.Dial(all[0].opts.RunDir).RotateCA(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	err := control.Dial(all[0].opts.RunDir).RotateCA(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "being replaced already") {
		t.Errorf("a second one: %v", err)
	}
	if err := control.Dial(all[0].opts.RunDir).RotateCA(t.Context(), true); err == nil {
		t.Error("the old CA is dropped before the new one signs")
	}
	eventually.True(t, 30*time.Second, "it waits for the other server", func() bool {
		return slices.Equal(all[0].rotates(t).Waits, []string{"server s2 does not trust the new CA yet"})
	})
	all[1].start(t)
	eventually.True(t, 60*time.Second, "servers and nodes have the new CA", func() bool {
		r := all[0].rotates(t)
		why = fmt.Sprint(r)
		return r.Phase == pki.PhaseSign && len(r.Waits) == 1 && strings.HasPrefix(r.Waits[0], "user viewer has a certificate of the old CA")
	})
	eventually.True(t, 20*time.Second, "pods are given both", func() bool { return bundle() == 2 })
	eventually.True(t, 20*time.Second, "nodes are reached while both are trusted", func() bool { why = reached(); return why == "" })
	if now := all[1].rotates(t); now.Pin == before.Pin {
		t.Error("the other server signs by the old CA")
	}

	if err := control.Dial(all[1].opts.RunDir).RotateCA(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, 30*time.Second, "a viewer of the old CA is refused", func() bool {
		_, err := all[0].viewer.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return err != nil
	})
	for _, s := range all {
		s.view(t)
	}
	eventually.True(t, 30*time.Second, "nodes are reached by the new CA alone", func() bool { why = reached(); return why == "" })
	eventually.True(t, 20*time.Second, "pods are given the new one", func() bool { return bundle() == 1 })
	list, err := all[0].viewer.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatal(err)
	}
	for _, n := range list.Items {
		if c := kinds.NodeCondition(&n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionTrue {
			t.Errorf("%s is not ready", n.Name)
		}
	}
}
