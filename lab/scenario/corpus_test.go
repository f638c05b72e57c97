//go:build corpus

package scenario

import (
	"os"
	"path/filepath"
	"testing"

	"lockstep/lab/image"
)

// stands are the images of the public manifests, each with the arguments of the stand-in that takes its place.
var stands = map[string][]string{
	"registry.k8s.io/redis:e2e":              {"serve", "redis-master", "6379"},
	"gcr.io/google_samples/gb-redisslave:v1": {"serve", "redis-replica", "6379"},
	"gcr.io/google-samples/gb-frontend:v5":   {"serve", "frontend", "80"},
	"redis:alpine":                           {"serve", "redis", "6379"},
	"postgres:15-alpine":                     {"serve", "postgres", "5432"},
	"dockersamples/examplevotingapp_vote":    {"serve", "vote", "80"},
	"dockersamples/examplevotingapp_result":  {"serve", "result", "80"},
	"dockersamples/examplevotingapp_worker":  {"wait"},
}

// TestCorpus pushes two public applications of $LOCKSTEP_CORPUS, unchanged, with stand-ins for their images: the guestbook
// to the repository that is fetched over HTTP, the voting application to the one over SSH. It belongs to make test-corpus.
func TestCorpus(t *testing.T) {
	corpus := os.Getenv("LOCKSTEP_CORPUS")
	if corpus == "" {
		t.Fatal("LOCKSTEP_CORPUS names no folder")
	}
	dir := t.TempDir()
	program, err := image.Program(cluster.standin, "/standin")
	if err != nil {
		t.Fatal(err)
	}
	tars, err := pack(dir, program, stands)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Images(t.Context(), tars...); err != nil {
		t.Fatal(err)
	}
	guestbook, voting := clone(t, "shop"), clone(t, "poll")
	guestbook.copy(filepath.Join(corpus, "kubernetes-examples/web/guestbook/all-in-one/guestbook-all-in-one.yaml"))
	voting.copy(filepath.Join(corpus, "voting-app/k8s-specifications"))
	a, b := guestbook.push("guestbook"), voting.push("voting application")
	guestbook.rolledOut(a, 6)
	voting.rolledOut(b, 9)

	nodes := map[string]int{}
	for _, p := range pods(t, "default", "") {
		nodes[p.Spec.NodeName]++
	}
	if len(nodes) != len(cluster.Agents()) {
		t.Errorf("pods run on %v", nodes)
	}
	t.Logf("\n%s", kubectlOn(t, "get", "deploy,rs,po,svc,endpointslices,no", "-o", "wide"))
	// The voting application's service selects the guestbook's pods too: both say app=redis, in one namespace.
	redis := []string{"redis", "redis-master", "redis-replica"}
	for service, answers := range map[string][]string{
		"frontend": {"frontend"}, "redis-master": {"redis-master"}, "redis-replica": {"redis-replica"},
		"vote": {"vote"}, "result": {"result"}, "db": {"postgres"}, "redis": redis,
	} {
		everywhere(t, "default", service, answers...)
	}
}
