package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"lockstep/internal/eventually"
	"lockstep/internal/golden"
	"lockstep/nodeagent/client"
)

// nobody is told of no pods.
type nobody struct{}

func (nobody) Seen(*corev1.Pod)                           {}
func (nobody) Deleted(types.UID)                          {}
func (nobody) Listed(context.Context, map[types.UID]bool) {}

// TestRequests holds what a node asks of a server to follow its cluster: of one that begins watches with what there is, and
// of one that does not.
func TestRequests(t *testing.T) {
	var text strings.Builder
	for _, server := range []struct {
		name    string
		refuses bool
		each    int // how many requests there are of each kind
	}{{"watches begin with what there is", false, 1}, {"watches begin with nothing", true, 3}} {
		asked := &requests{refuses: server.refuses, seen: map[string]int{}}
		host := httptest.NewServer(asked)
		api, err := client.New(&rest.Config{Host: host.URL, UserAgent: "agent", ContentConfig: rest.ContentConfig{
			AcceptContentTypes: "application/json", ContentType: "application/json"}})
		if err != nil {
			t.Fatal(err)
		}
		c := New(Options{Node: "n1", File: filepath.Join(t.TempDir(), "cluster"), Pods: nobody{}, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() {
			if err := c.Follow(ctx, api); err != nil {
				t.Error(err)
			}
		})
		eventually.True(t, 30*time.Second, "all is asked for", func() bool { return asked.count() == 5*server.each })
		cancel()
		following.Wait()
		host.Close()
		fmt.Fprintf(&text, "# %s\n%s\n", server.name, asked)
	}
	golden.File(t, "testdata/requests.golden", text.String())
}

// requests is a server that has nothing, and tells what it was asked.
type requests struct {
	refuses bool // to begin watches with what there is

	mu   sync.Mutex
	seen map[string]int
}

func (s *requests) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for _, n := range s.seen {
		sum += n
	}
	return sum
}

// String has a line for each, sorted, without what is drawn by lot.
func (s *requests) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.seen)), "\n") + "\n"
}

var drawn = regexp.MustCompile(`timeout(Seconds)?=[0-9ms]+`)

func (s *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen[drawn.ReplaceAllString(fmt.Sprint(r.Method, " ", r.URL, " ", r.Header["Accept"], " ", r.UserAgent()), "timeout$1=N")]++
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	query, version := r.URL.Query(), "v1"
	kind := map[string]string{"services": "Service", "endpointslices": "EndpointSlice", "nodes": "Node", "namespaces": "Namespace",
		"pods": "Pod"}[path.Base(r.URL.Path)]
	if kind == "EndpointSlice" {
		version = "discovery.k8s.io/v1"
	}
	switch {
	case query.Get("sendInitialEvents") == "true" && s.refuses:
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}`)
	case query.Get("watch") != "true":
		fmt.Fprintf(w, `{"kind": "%sList", "apiVersion": %q, "metadata": {"resourceVersion": "7"}}`, kind, version)
	default:
		if query.Get("sendInitialEvents") == "true" {
			fmt.Fprintf(w, `{"type": "BOOKMARK", "object": {"kind": %q, "apiVersion": %q, "metadata": {"resourceVersion": "7",
				"annotations": {"k8s.io/initial-events-end": "true"}}}}`, kind, version)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}
