package api

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/daemon/pki"
	"lockstep/internal/golden"
	"lockstep/internal/kubectl"
)

func TestMain(m *testing.M) {
	kubectl.Main()
	goleak.VerifyTestMain(m)
}

// kubectl runs kubectl as the viewer and returns what it printed and whether it succeeded.
func (s *testServer) kubectl(ctx context.Context, args ...string) (string, bool) {
	s.t.Helper()
	return s.kubectlAs(ctx, "alice", s.viewer(), args...)
}

// kubectlAs runs kubectl with somebody's certificate.
func (s *testServer) kubectlAs(ctx context.Context, user string, of *rest.Config, args ...string) (string, bool) {
	s.t.Helper()
	dir := s.t.TempDir()
	config := filepath.Join(dir, "kubeconfig")
	data, err := pki.Kubeconfig("lockstep", "https://"+s.address, s.authority.PEM(), user,
		pki.Credential{CertPEM: of.CertData, KeyPEM: of.KeyData})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(config, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if _, err := clientcmd.LoadFromFile(config); err != nil {
		s.t.Fatal(err)
	}
	c := kubectl.Command(ctx, config, dir, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err = c.Run()
	return out.String(), err == nil
}

// ages and revisions differ from run to run.
var changing = regexp.MustCompile(`\b\d+(y|d|h|m|s|d\d+h|y\d+d|h\d+m|m\d+s)\b( ago)?|` +
	`resourceVersion: "\d+"|https://127.0.0.1:\d+|Resource Version:.*`)

// printed holds what was printed to a file, but for what changes.
func printed(t *testing.T, name, got string) {
	t.Helper()
	lines := strings.Split(changing.ReplaceAllString(got, "*"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	golden.File(t, filepath.Join("testdata", name), strings.Join(lines, "\n"))
}

func TestKubectl(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declareAll()
	for _, c := range []struct {
		name string
		args string
		fail bool
	}{
		{name: "get-all-wide", args: "get deploy,rs,po,svc,endpointslices,no,ns,cm,sa,ev,leases,sources -A -o wide"},
		{name: "get-pod-yaml", args: "get pod cart-1-a -n shop -o yaml"},
		{name: "get-selector", args: "get pods -A -l app=cart --field-selector spec.nodeName=n2"},
		{name: "get-category", args: "get all -n shop"},
		{name: "describe-pod", args: "describe pod cart-1-a -n shop"},
		{name: "describe-node", args: "describe node n1"},
		{name: "describe-deployment", args: "describe deployment cart -n shop"},
		{name: "describe-service", args: "describe service cart -n shop"},
		{name: "events", args: "events -n shop"},
		{name: "rollout-status", args: "rollout status deployment/cart -n shop --timeout 10s"},
		{name: "rollout-history", args: "rollout history deployment/cart -n shop"},
		{name: "wait", args: "wait --for=condition=Available deployment/cart -n shop --timeout 10s"},
		{name: "api-resources", args: "api-resources"},
		{name: "api-versions", args: "api-versions"},
		{name: "whoami", args: "auth whoami"},
		{name: "can-i-list", args: "auth can-i list pods -A"},
		{name: "can-i-delete", args: "auth can-i delete pods -A", fail: true},
		{name: "secrets", args: "get secrets -n shop", fail: true},
		{name: "missing", args: "get pod nobody -n shop", fail: true},
		{name: "delete-pod", args: "delete pod cart-1-a -n shop", fail: true},
		{name: "scale", args: "scale deployment cart -n shop --replicas 5", fail: true},
		{name: "label", args: "label pod cart-1-a -n shop a=b", fail: true},
		{name: "create-token", args: "create token default -n shop", fail: true},
		{name: "create", args: "create configmap made -n shop --from-literal a=b", fail: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			out, ok := s.kubectl(ctx, strings.Fields(c.args)...)
			if ok == c.fail {
				t.Errorf("kubectl %s: success %v, want %v", c.args, ok, !c.fail)
			}
			printed(t, "kubectl-"+c.name+".txt", out)
		})
	}
}
