package forge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/sync/forge/forgetest"
	"lockstep/sync/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func gitea1(t *testing.T, server *forgetest.Server) Forge {
	t.Helper()
	api := httptest.NewServer(server)
	t.Cleanup(api.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := v1alpha1.Source{
		Spec: v1alpha1.SourceSpec{URL: api.URL + "/team/shop.git", Forge: &v1alpha1.Forge{Type: "gitea", TokenFile: token}},
	}
	f, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestGitea(t *testing.T) {
	server := forgetest.New()
	server.Token = "t0ken"
	server.Known = func(repository, commit string) bool { return repository == "team/shop" && commit != "gone" }
	f := gitea1(t, server)
	ctx := t.Context()
	if _, ok, err := f.Last(ctx, "abc", "ctx"); ok || err != nil {
		t.Fatal(ok, err)
	}
	want := verdict.Status{State: verdict.Failure, Context: "ctx", Description: "a cause", TargetURL: "https://status/1"}
	for _, s := range []verdict.Status{{State: verdict.Pending, Context: "ctx"}, want, {State: verdict.Success, Context: "other"}} {
		if err := f.Post(ctx, "abc", s); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 { // a page and more of another context
		if err := f.Post(ctx, "abc", verdict.Status{State: verdict.Success, Context: "other"}); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := f.Last(ctx, "abc", "ctx"); !ok || err != nil || got != want {
		t.Errorf("last %+v %v %v", got, ok, err)
	}
	refused := func(code int, after time.Duration) {
		t.Helper()
		err := f.Post(ctx, "abc", want)
		var r *Refusal
		if !errors.As(err, &r) || r.Code != code || r.After != after {
			t.Errorf("error %v, want a refusal %d after %v", err, code, after)
		}
	}
	for _, code := range []int{401, 403, 404, 409} {
		server.Fail(forgetest.Fault{Code: code})
		refused(code, 0)
	}
	server.Fail(forgetest.Fault{Code: 429, RetryAfter: 7})
	refused(429, 7*time.Second)
	for _, fault := range []forgetest.Fault{{Code: 500}, {Code: 503}, {}} {
		server.Fail(fault)
		var r *Refusal
		if err := f.Post(ctx, "abc", want); err == nil || errors.As(err, &r) || strings.Contains(err.Error(), "t0ken") {
			t.Errorf("fault %+v: error %v, want one that leaves a doubt", fault, err)
		}
	}
	if err := f.Post(ctx, "gone", want); err == nil {
		t.Error("an unknown commit took a status")
	}
}

func TestNewGuessesTheForge(t *testing.T) {
	for url, want := range map[string]string{
		"https://git.example.com/team/shop.git":        "https://git.example.com team/shop",
		"http://10.0.0.1:3000/team/shop":               "http://10.0.0.1:3000 team/shop",
		"ssh://git@git.example.com:2222/team/shop":     "https://git.example.com team/shop",
		"git@git.example.com:team/shop.git":            "https://git.example.com team/shop",
		"https://ada:pw@git.example.com/team/shop.git": "https://git.example.com team/shop",
		"file:///srv/shop.git":                         "",
		"https://git.example.com/shop.git":             "",
	} {
		f, err := New(v1alpha1.Source{Spec: v1alpha1.SourceSpec{URL: url, Forge: &v1alpha1.Forge{Type: "forgejo"}}})
		got := ""
		if g, ok := f.(*gitea); ok {
			got = g.url + " " + g.owner + "/" + g.name
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v, want %q", url, got, err, want)
		}
	}
	if _, err := New(v1alpha1.Source{Spec: v1alpha1.SourceSpec{Forge: &v1alpha1.Forge{Type: "other"}}}); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// TestBackoff: however long the forge was away, posting goes on within a minute; what the forge itself asks for is kept.
func TestBackoff(t *testing.T) {
	p := &poster{random: rand.New(rand.NewPCG(1, 1))}
	for n := range 100 {
		longest := min(time.Minute, time.Second<<min(n, 10))
		if got := p.backoff(errors.New("no answer")); got < longest/2 || got > longest {
			t.Errorf("after %d failures: %v, want up to %v", n, got, longest)
		}
	}
	if got := p.backoff(&Refusal{Code: 429, After: time.Hour}); got != time.Hour {
		t.Errorf("told to wait an hour: %v", got)
	}
}

// TestKilledBetweenDecidingAndPosting kills the outbox after every write to the store; the next one posts what is
// missing, and never the same twice.
func TestKilledBetweenDecidingAndPosting(t *testing.T) {
	for n := 1; n < 8; n++ {
		server := forgetest.New()
		f := gitea1(t, server)
		var mu sync.Mutex
		writes, limit := 0, n
		s := memory.NewWith(memory.Options{Intercept: func(store.Group) error {
			mu.Lock()
			defer mu.Unlock()
			if writes++; limit > 0 && writes > limit {
				return store.ErrUnavailable
			}
			return nil
		}})
		states := []verdict.Status{
			{State: verdict.Pending, Context: "c", Description: "1 of 2"},
			{State: verdict.Failure, Context: "c", Description: "broken"},
			{State: verdict.Success, Context: "c", Description: "fine"},
		}
		life := func(until func() bool) {
			o := NewOutbox(Options{Store: s, Commit: s})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- o.Post(ctx, "shop", f) }()
			for _, status := range states {
				if err := o.Put(ctx, verdict.Entry{Source: "shop", Revision: "abc", Kind: verdict.Outcome, Status: status}); err != nil &&
					!errors.Is(err, store.ErrUnavailable) {
					t.Error(err)
				}
				time.Sleep(2 * time.Millisecond)
			}
			for end := time.Now().Add(20 * time.Second); !until(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Error("never")
					break
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		life(func() bool {
			mu.Lock()
			defer mu.Unlock()
			_, waiting := s.View().Record(string(verdict.Outbox), "shop/abc/verdict")
			return writes > limit || !waiting
		})
		mu.Lock()
		limit = 0
		mu.Unlock()
		states = states[2:]
		life(func() bool {
			_, waiting := s.View().Record(string(verdict.Outbox), "shop/abc/verdict")
			posted, ok := verdict.Last(s.View(), "shop/abc/verdict")
			return ok && !waiting && posted.Status.State == verdict.Success
		})
		got := server.Statuses("team/shop", "abc")
		if len(got) == 0 || got[len(got)-1].Description != "fine" {
			t.Errorf("killed after %d writes: %+v", n, got)
		}
		for i := 1; i < len(got); i++ {
			if got[i].Description == got[i-1].Description {
				t.Errorf("killed after %d writes, posted twice: %+v", n, got)
			}
		}
	}
}
