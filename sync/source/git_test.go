package source

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
	"lockstep/lab/githost"
	"lockstep/sync/source/clone"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// origin is a repository served over HTTP, with a working copy.
type origin struct {
	t    testing.TB
	host *githost.Server
	url  string
	bare string
	work string
}

func newOrigin(t testing.TB, opts githost.Options) *origin {
	t.Helper()
	o := &origin{t: t, host: githost.New(t.TempDir(), opts), work: t.TempDir()}
	var err error
	if o.bare, err = o.host.Create(context.Background(), "shop"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(o.host.Handler())
	t.Cleanup(server.Close)
	o.url = server.URL + "/shop.git"
	o.git("init", "-q", "-b", "main")
	o.git("config", "user.name", "Ada")
	o.git("config", "user.email", "ada@example.com")
	return o
}

func (o *origin) git(args ...string) string {
	o.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = o.work
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (o *origin) write(name, content string) {
	o.t.Helper()
	path := filepath.Join(o.work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		o.t.Fatal(err)
	}
}

func (o *origin) push(flags ...string) string {
	o.t.Helper()
	o.git("add", "-A")
	o.git("commit", "-q", "--allow-empty", "-m", "change")
	o.git(append([]string{"push", "-q", o.bare, "HEAD:main"}, flags...)...)
	return o.git("rev-parse", "HEAD")
}

func (o *origin) source(change ...func(*v1alpha1.SourceSpec)) v1alpha1.Source {
	s := v1alpha1.Source{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec:       v1alpha1.SourceSpec{URL: o.url, Branch: "main", Timeout: metav1.Duration{Duration: 10 * time.Second}},
	}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func watch(t testing.TB, dir string, sources ...v1alpha1.Source) *Repository {
	t.Helper()
	return watchWith(t, Options{DataDir: dir}, sources...)
}

func watchWith(t testing.TB, opts Options, sources ...v1alpha1.Source) *Repository {
	t.Helper()
	watchers, err := Watchers(sources, opts)
	if err != nil {
		t.Fatal(err)
	}
	r := watchers[0].(*Repository)
	t.Cleanup(r.close)
	return r
}

func look(t testing.TB, w Watcher) *Revision {
	t.Helper()
	rev, err := w.Look(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// contents are the files of a revision with what they hold.
func contents(t testing.TB, rev *Revision) string {
	t.Helper()
	var b strings.Builder
	for _, f := range rev.Files {
		data, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s=%s;", f.Path, strings.TrimSpace(string(data)))
	}
	for _, p := range rev.Problems {
		fmt.Fprintf(&b, "!%v;", p)
	}
	for _, n := range rev.Ignored {
		fmt.Fprintf(&b, "-%s;", n)
	}
	return b.String()
}

func TestGitFollowsABranch(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a.yaml", "one")
	o.write("deploy/b.yml", "two")
	o.write("README.md", "no manifest")
	first := o.push()
	r := watch(t, t.TempDir(), o.source())
	rev := look(t, r)
	if rev.ID != first || rev.Author != "Ada <ada@example.com>" || contents(t, rev) != "a.yaml=one;deploy/b.yml=two;" {
		t.Fatalf("%s by %s: %s", rev.ID, rev.Author, contents(t, rev))
	}
	old := rev.Files[1]
	o.write("a.yaml", "three")
	second := o.push()
	if rev = look(t, r); rev.ID != second || contents(t, rev) != "a.yaml=three;deploy/b.yml=two;" || rev.Files[1].Hash != old.Hash {
		t.Fatalf("%s: %s", rev.ID, contents(t, rev))
	}
	o.git("reset", "-q", "--hard", first)
	o.write("a.yaml", "four")
	forced := o.push("--force")
	if rev = look(t, r); rev.ID != forced || contents(t, rev) != "a.yaml=four;deploy/b.yml=two;" {
		t.Fatalf("%s: %s", rev.ID, contents(t, rev))
	}
	if got := o.host.Requests("fetch"); got != 3 {
		t.Errorf("%d fetches for three revisions", got)
	}
	look(t, r)
	look(t, watch(t, filepath.Dir(filepath.Dir(r.dir)), o.source()))
	if got := o.host.Requests("fetch"); got != 3 {
		t.Errorf("%d fetches although nothing moved, also after a restart", got)
	}
}

func TestGitTagsAndPaths(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a.yaml", "root")
	o.write("apps/shop/b.yaml", "shop")
	first := o.push()
	o.git("tag", "-a", "-m", "release", "v1")
	o.git("push", "-q", o.bare, "v1")
	o.write("a.yaml", "later")
	o.push()
	r := watch(t, t.TempDir(), o.source(func(s *v1alpha1.SourceSpec) { s.Branch, s.Tag, s.Path = "", "v1", "/apps/shop/" }))
	if rev := look(t, r); rev.ID != first || contents(t, rev) != "apps/shop/b.yaml=shop;" {
		t.Fatalf("%s: %s", rev.ID, contents(t, rev))
	}
	r = watch(t, t.TempDir(), o.source(func(s *v1alpha1.SourceSpec) { s.Branch = "" }))
	if rev := look(t, r); contents(t, rev) != "a.yaml=later;apps/shop/b.yaml=shop;" {
		t.Fatalf("the default branch: %s", contents(t, rev))
	}
	r = watch(t, t.TempDir(), o.source(func(s *v1alpha1.SourceSpec) { s.Path = "nowhere" }))
	if rev := look(t, r); len(rev.Files) != 0 {
		t.Fatalf("a path that is not there: %s", contents(t, rev))
	}
}

func TestGitLinksSubmodulesAndPointers(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a.yaml", "one")
	o.write("big.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
	for name, target := range map[string]string{"sub/in.yaml": "../a.yaml", "sub/out.yaml": "../../x.yaml", "abs.yaml": "/etc/passwd"} {
		path := filepath.Join(o.work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	o.write(".github/workflows/ci.yml", "on: push")
	o.write("sub/.hidden/b.yaml", "hidden")
	first := o.push()
	o.git("update-index", "--add", "--cacheinfo", "160000,"+first+",module")
	o.git("commit", "-q", "-m", "submodule")
	o.git("push", "-q", o.bare, "HEAD:main")
	rev := look(t, watch(t, t.TempDir(), o.source()))
	want := "a.yaml=one;big.yaml=version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1;sub/in.yaml=one;!abs.yaml: " +
		"the symbolic link leads out of the tree;!sub/out.yaml: the symbolic link leads out of the tree;-module: submodules are not read;"
	if got := contents(t, rev); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestGitErrorsNameTheCause(t *testing.T) {
	secured := newOrigin(t, githost.Options{User: "ada", Password: "s3cret"})
	secured.write("a.yaml", "one")
	secured.push()
	empty := newOrigin(t, githost.Options{})
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		source v1alpha1.Source
		want   string
	}{
		"no credentials": {secured.source(), "credentials that it was not given"},
		"wrong password": {secured.source(func(s *v1alpha1.SourceSpec) {
			s.Credentials = &v1alpha1.Credentials{UsernameFile: file("ada"), PasswordFile: file("no")}
		}), "credentials that it was not given or does not take"},
		"right password": {secured.source(func(s *v1alpha1.SourceSpec) {
			s.Credentials = &v1alpha1.Credentials{UsernameFile: file("ada"), PasswordFile: file("s3cret")}
		}), ""},
		"missing file": {secured.source(func(s *v1alpha1.SourceSpec) {
			s.Credentials = &v1alpha1.Credentials{TokenFile: "/nowhere/token"}
		}), "cannot read the token file"},
		"empty repository": {empty.source(), "no commits"},
		"no such branch": {secured.source(func(s *v1alpha1.SourceSpec) {
			s.Branch = "dev"
			s.Credentials = &v1alpha1.Credentials{UsernameFile: file("ada"), PasswordFile: file("s3cret")}
		}), "branch dev not found"},
		"no such repo": {empty.source(func(s *v1alpha1.SourceSpec) { s.URL = strings.Replace(s.URL, "shop", "other", 1) }),
			"no such repository"},
		"nobody listens": {empty.source(func(s *v1alpha1.SourceSpec) { s.URL = "http://127.0.0.1:1/shop.git" }), "refused"},
		"ssh without hosts": {empty.source(func(s *v1alpha1.SourceSpec) { s.URL = "git@127.0.0.1:shop.git" }),
			"known_hosts file (ssh-keyscan 127.0.0.1)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := watch(t, t.TempDir(), c.source).Look(t.Context(), "shop")
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			case err != nil && strings.Contains(err.Error(), "s3cret"):
				t.Errorf("a password in %v", err)
			}
		})
	}
}

func TestDamagedCloneIsMadeAnew(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a.yaml", "one")
	o.push()
	for name, damage := range map[string]func(pack string) error{
		"packs gone":      os.Remove,
		"packs cut":       func(pack string) error { return os.Truncate(pack, 20) },
		"packs scribbled": func(pack string) error { return os.WriteFile(pack, []byte(strings.Repeat("x", 400)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := watch(t, dir, o.source())
			look(t, r)
			r.close()
			packs, err := filepath.Glob(filepath.Join(r.dir, "objects/pack/*.pack"))
			if err != nil || len(packs) == 0 {
				t.Fatal(err, packs)
			}
			for _, p := range packs {
				if err := os.Chmod(p, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := damage(p); err != nil {
					t.Fatal(err)
				}
			}
			s := o.source()
			s.Spec.Interval.Duration = 10 * time.Millisecond
			r = watch(t, dir, s)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got := make(chan string, 100)
			done := make(chan error, 1)
			go func() {
				done <- r.Run(ctx, func(u Update) {
					if u.Err != nil {
						return
					}
					text := ""
					for _, f := range u.Revision.Files {
						data, err := f.Read()
						if err != nil {
							return
						}
						text += string(data)
					}
					got <- text
				})
			}()
			select {
			case text := <-got:
				if text != "one" {
					t.Errorf("content %q", text)
				}
			case <-time.After(30 * time.Second):
				t.Error("the clone was not made anew")
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOneFetchForAllSources(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a/a.yaml", "one")
	o.write("b/b.yaml", "two")
	o.push()
	a := o.source(func(s *v1alpha1.SourceSpec) { s.Path = "a" })
	b := o.source(func(s *v1alpha1.SourceSpec) { s.Path = "b" })
	b.Name = "other"
	watchers, err := Watchers([]v1alpha1.Source{a, b}, Options{DataDir: t.TempDir()})
	if err != nil || len(watchers) != 1 {
		t.Fatal(err, len(watchers))
	}
	ctx, cancel := context.WithCancel(t.Context())
	updates := map[string]string{}
	err = watchers[0].Run(ctx, func(u Update) {
		if u.Err != nil {
			t.Error(u.Err)
			cancel()
			return
		}
		updates[u.Source] = contents(t, u.Revision)
		if len(updates) == 2 {
			cancel()
		}
	})
	if err != nil || updates["shop"] != "a/a.yaml=one;" || updates["other"] != "b/b.yaml=two;" {
		t.Error(err, updates)
	}
	if o.host.Requests("list") > 2 || o.host.Requests("fetch") != 1 {
		t.Errorf("%d listings, %d fetches", o.host.Requests("list"), o.host.Requests("fetch"))
	}
}

func TestShallowFallback(t *testing.T) {
	o := newOrigin(t, githost.Options{})
	o.write("a.yaml", "one")
	first := o.push()
	o.write("a.yaml", "two")
	o.push()
	r := watchWith(t, Options{DataDir: t.TempDir(), Limits: clone.Limits{Objects: 3}}, o.source()) // a commit, its tree and a file
	if rev := look(t, r); contents(t, rev) != "a.yaml=two;" {
		t.Fatal(contents(t, rev))
	}
	o.git("reset", "-q", "--hard", first)
	o.write("a.yaml", "three")
	o.push("--force")
	if rev := look(t, r); contents(t, rev) != "a.yaml=three;" {
		t.Fatal(contents(t, rev))
	}
}

func TestTrailer(t *testing.T) {
	for message, want := range map[string]bool{
		"remove all\n\nLockstep-Prune: allow\n":                             true,
		"remove all\n\nlong text\n\nSigned-off-by: x\nlockstep-prune:allow": true,
		"remove all\r\n\r\nLockstep-Prune: allow\r\n":                       true,
		"Lockstep-Prune: allow is what I did not write":                     false,
		"talk about\n\nLockstep-Prune: allow\n\nbut not at the end":         false,
		"": false,
	} {
		if got := Trailer(message, "Lockstep-Prune", "allow"); got != want {
			t.Errorf("%q: %v", message, got)
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	b := newBackoff(7)
	last := time.Duration(0)
	for i := range 40 {
		d := b.next()
		if d < backoffBase/2 || d > backoffMax || i < 8 && d < last/4 {
			t.Fatalf("step %d: %v after %v", i, d, last)
		}
		last = d
	}
	if last < backoffMax/2 {
		t.Errorf("ends at %v", last)
	}
	if b.reset(); b.next() > backoffBase {
		t.Error("not reset")
	}
}

// BenchmarkFetch compares the ways to follow a push of one line to a repository of 10,000 files.
// TestPokesAreBounded: a few pushes one after the other are looked at at once, a storm of webhooks once a second.
func TestPokesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRepository("id", v1alpha1.Source{}, Options{}, NewMetrics(nil))
		for n := range pokeBurst + 3 {
			began := time.Now()
			r.Poke()
			r.Poke()
			if !r.rest(t.Context(), time.Hour) {
				t.Fatal("the context ended")
			}
			want := time.Duration(0)
			if n >= pokeBurst {
				want = pokeEvery
			}
			if took := time.Since(began); took != want {
				t.Errorf("look %d came after %v, want %v", n, took, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.Poke()
		if r.rest(ctx, time.Hour) {
			t.Error("looked after the end")
		}
	})
}

func BenchmarkFetch(b *testing.B) {
	o := newOrigin(b, githost.Options{})
	for i := range 10_000 {
		o.write(fmt.Sprintf("team-%02d/settings-%05d.yaml", i/100, i), fmt.Sprintf("name: settings-%05d\ncolor: blue\n", i))
	}
	o.push()
	for _, way := range []string{"incremental", "shallow"} {
		b.Run(way, func(b *testing.B) {
			opts := Options{DataDir: b.TempDir()}
			if way == "shallow" {
				opts.Limits.Objects = 10_200 // all files and directories once
			}
			r := watchWith(b, opts, o.source())
			look(b, r)
			for n := range b.N {
				b.StopTimer()
				o.write("team-00/settings-00001.yaml", fmt.Sprintf("name: x\ncolor: %s%d\n", way, n))
				o.push()
				b.StartTimer()
				look(b, r)
			}
		})
	}
}
