package source

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lockstep/kinds/v1alpha1"
)

// TestRedirectsGetNoCredentials: a forge that sends a look elsewhere, to another host or to http, does not send the
// password along.
func TestRedirectsGetNoCredentials(t *testing.T) {
	manifest := blob("good")
	files := treeOf("100644 a.yaml", manifest.hash())
	commit := commitOf(files, "fine")
	e := newEvil(t)
	e.branch("main", commit, whole(commit, files, manifest))
	var mu sync.Mutex
	var shown []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		shown = append(shown, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+r.Header.Get("Cookie"))
		mu.Unlock()
		e.ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	away := strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)
	asked := false
	forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = asked || r.Header.Get("Authorization") != ""
		http.Redirect(w, r, away+r.URL.String(), http.StatusFound)
	}))
	defer forge.Close()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := e.source("main")
	s.Spec.URL, s.Spec.Credentials = forge.URL+"/shop.git", &v1alpha1.Credentials{PasswordFile: password}
	_, err := watchWith(t, Options{DataDir: t.TempDir()}, s).Look(t.Context(), "main")
	mu.Lock()
	defer mu.Unlock()
	for _, r := range shown {
		if !strings.HasSuffix(r, " ") {
			t.Errorf("told elsewhere: %s", r)
		}
	}
	if !asked || len(shown) == 0 {
		t.Errorf("asked with a password: %t; elsewhere %q; %v", asked, shown, err)
	}
}
