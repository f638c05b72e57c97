package daemon_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lockstep/daemon/command"
	"lockstep/daemon/control"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/tunnel"
)

// TestEtcdLost removes etcd's data and keeps the authority: a node goes on with its certificate, its name is given to no
// impostor, and one that was removed stays so; then it is removed itself, with what it has open.
func TestEtcdLost(t *testing.T) {
	t.Parallel()
	s := newServer(t, "a")
	s.start()
	s.untilReady()
	n1, n2 := s.join("n1"), s.join("n2")
	s.removeNode("n2")
	s.stop()
	if err := os.RemoveAll(filepath.Join(s.dir, "data", "etcd")); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.untilReady()
	if err := s.impostor("n1"); err == nil {
		t.Error("an impostor with a new token has a running node's name")
	}
	if err := announce(t, n1, "n1"); err != nil {
		t.Errorf("the node registers again: %v", err)
	}
	if err := announce(t, n2, "n2"); !apierrors.IsUnauthorized(err) {
		t.Errorf("the node that was removed before: %v", err)
	}
	w, err := n1.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.removeNode("n1")
	late := time.After(60 * time.Second)
	for open := true; open; {
		select {
		case _, open = <-w.ResultChan():
		case <-late:
			t.Fatal("the watch of a removed node goes on")
		}
	}
	s.until("the removed node is refused", func() (string, bool) {
		_, err := n1.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return "", apierrors.IsUnauthorized(err)
	})
	if err := s.impostor("n1"); err != nil {
		t.Errorf("another machine under the name that is free now: %v", err)
	}
}

func announce(t *testing.T, c kubernetes.Interface, name string) error {
	t.Helper()
	_, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// impostor joins under a name with a key of its own.
func (s *server) impostor(name string) error {
	s.t.Helper()
	token, err := s.door().Token(s.t.Context(), control.TokenOptions{TTL: time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	return register.Identity{Server: "https://" + s.api, Node: name, Dir: s.t.TempDir()}.Join(s.t.Context(), token)
}

func (s *server) removeNode(name string) {
	s.t.Helper()
	if err := command.Run(s.t.Context(), []string{"node", "remove", name, "--run-dir", filepath.Join(s.dir, "run")}); err != nil {
		s.t.Fatal(err)
	}
}

// TestAgentIsRemoved: an agent's reports and tunnel work, and end with the node, also where the agent goes on trying.
func TestAgentIsRemoved(t *testing.T) {
	t.Parallel()
	s := newServer(t, "a")
	s.start()
	s.untilReady()
	token, err := s.door().Token(t.Context(), control.TokenOptions{TTL: time.Hour, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	identity := register.Identity{Server: "https://" + s.api, Node: "n1", Dir: t.TempDir()}
	if err := identity.Join(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	conf, err := identity.TLS()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host:      identity.Server,
		Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var failed atomic.Bool
	reporter := &register.Reporter{
		Client: client, Name: "n1", State: func(context.Context) register.State { return register.State{} }, Changed: make(chan struct{}),
		Reported: func(_ string, _ time.Time, err error) { failed.Store(err != nil) }, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = reporter.Run(ctx) })
	running.Go(func() {
		_ = tunnel.Serve(ctx, slog.New(slog.DiscardHandler), tunnel.NewLine(func() string { return s.api }, identity.TLS).Dial,
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("the agent")) }))
	})
	viewer := s.client().CoreV1()
	reach := func() string {
		data, err := viewer.RESTClient().Get().AbsPath("/api/v1/nodes/n1/proxy/healthz").DoRaw(t.Context())
		return string(data) + " " + fmt.Sprint(err)
	}
	s.until("the agent is there", func() (string, bool) {
		node, err := viewer.Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		answer := reach()
		return answer, err == nil && len(node.Status.Conditions) > 0 && strings.HasPrefix(answer, "the agent ") && !failed.Load()
	})
	s.removeNode("n1")
	s.until("the agent is out", func() (string, bool) {
		_, err := viewer.Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return fmt.Sprint(err), apierrors.IsNotFound(err) && !strings.HasPrefix(reach(), "the agent ")
	})
	s.until("its reports are refused", func() (string, bool) { return "", failed.Load() })
	if _, err := viewer.Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the removed node is back: %v", err)
	}
}
