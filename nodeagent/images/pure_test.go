package images

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	backoffs "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
)

func TestNames(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct {
		image, name string
		policy      corev1.PullPolicy
	}{
		{"nginx", "docker.io/library/nginx:latest", corev1.PullAlways},
		{"nginx:latest", "docker.io/library/nginx:latest", corev1.PullAlways},
		{"nginx:1", "docker.io/library/nginx:1", corev1.PullIfNotPresent},
		{"docker.io/nginx:1", "docker.io/library/nginx:1", corev1.PullIfNotPresent},
		{"index.docker.io/library/nginx:1", "docker.io/library/nginx:1", corev1.PullIfNotPresent},
		{"team/app", "docker.io/team/app:latest", corev1.PullAlways},
		{"quay.io/team/app:v1", "quay.io/team/app:v1", corev1.PullIfNotPresent},
		{"localhost:5000/app", "localhost:5000/app:latest", corev1.PullAlways},
		{"localhost/app", "localhost/app:latest", corev1.PullAlways},
		{"nginx" + digest, "docker.io/library/nginx" + digest, corev1.PullIfNotPresent},
		{"nginx:latest" + digest, "docker.io/library/nginx" + digest, corev1.PullIfNotPresent},
		{"Nginx", "", corev1.PullIfNotPresent},
		{"", "", corev1.PullIfNotPresent},
		{"a b", "", corev1.PullIfNotPresent},
		{"nginx:", "", corev1.PullIfNotPresent},
		{strings.Repeat("a", 64), "", corev1.PullIfNotPresent},
	} {
		name, err := Normalize(test.image)
		if name != test.name || (err != nil) != (test.name == "") {
			t.Errorf("%q: got %q, %v", test.image, name, err)
		}
		if policy := Policy(test.image, ""); policy != test.policy {
			t.Errorf("%q: policy %s", test.image, policy)
		}
		if policy := Policy(test.image, corev1.PullNever); policy != corev1.PullNever {
			t.Errorf("%q: the stated policy is not taken", test.image)
		}
	}
}

func TestArchiveNames(t *testing.T) {
	for _, test := range [][3]string{
		{"app", "v1", "docker.io/library/app:v1"},
		{"app", "docker.io/library/web:1", "docker.io/library/web:1"},
		{"app", "web:1", "docker.io/library/web:1"},
		{"app", "", ""},
		{"APP", "v1", ""},
	} {
		if got := archiveName(test[0], test[1]); got != test[2] {
			t.Errorf("%q: got %q", test[:2], got)
		}
	}
}

func TestBackoff(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	b := backoff{failures: map[string]failure{}}
	if _, _, wait := b.until("x", now); wait {
		t.Error("waits before any failure")
	}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		b.fail("x", now, "why")
		at, why, wait := b.until("x", now)
		if !wait || why != "why" || at.Sub(now) != want*time.Second {
			t.Errorf("failure %d: %v, %q, %v", i, at.Sub(now), why, wait)
		}
		now = at
		if _, _, wait := b.until("x", now); wait {
			t.Errorf("failure %d: waits for ever", i)
		}
	}
	now = now.Add(maxBackoff + forgetAfter)
	b.fail("y", now, "")
	b.fail("x", now, "")
	if at, _, _ := b.until("x", now); at.Sub(now) != firstBackoff {
		t.Errorf("after a long time: %v", at.Sub(now))
	}
	b.succeed("x")
	if _, _, wait := b.until("x", now); wait {
		t.Error("waits after success")
	}
}

func TestToRemove(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	old := now.Add(-time.Hour)
	image := func(digest string, size uint64, used time.Duration) Candidate {
		return Candidate{Digest: digest, Size: size, LastUsed: now.Add(-used), Since: old}
	}
	change := func(c Candidate, f func(*Candidate)) Candidate { f(&c); return c }
	for name, test := range map[string]struct {
		available uint64
		images    []Candidate
		want      string
		free      uint64
	}{
		"room enough":      {available: 160, images: []Candidate{image("a", 100, time.Hour)}},
		"at the threshold": {available: 150, images: []Candidate{image("a", 100, time.Hour)}, want: "a", free: 50},
		"below the low mark": {available: 100, images: []Candidate{image("a", 60, 1), image("b", 60, 3), image("c", 60, 2)},
			want: "bc", free: 100},
		"never used first": {available: 100, images: []Candidate{
			image("a", 200, time.Hour),
			change(image("b", 200, 0), func(c *Candidate) { c.LastUsed = time.Time{} }),
		}, want: "b", free: 100},
		"in use": {available: 100,
			images: []Candidate{change(image("a", 200, time.Hour), func(c *Candidate) { c.InUse = true })}, free: 100},
		"from a file": {available: 100,
			images: []Candidate{change(image("a", 200, time.Hour), func(c *Candidate) { c.Pinned = true })}, free: 100},
		"just come": {available: 100,
			images: []Candidate{change(image("a", 200, time.Hour), func(c *Candidate) { c.Since = now.Add(-time.Minute) })}, free: 100},
		"same time": {available: 150, images: []Candidate{image("b", 200, 1), image("a", 200, 1)}, want: "a", free: 50},
		"no disk":   {available: 2000, images: []Candidate{image("a", 200, 1)}},
	} {
		got, free := ToRemove(Disk{Capacity: 1000, Available: test.available}, test.images, Thresholds{}, now)
		digests := ""
		for _, c := range got {
			digests += c.Digest
		}
		if digests != test.want || free != test.free {
			t.Errorf("%s: got %q, %d", name, digests, free)
		}
	}
}

func TestCredentials(t *testing.T) {
	config := func(text string) corev1.Secret {
		return corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text)}}
	}
	secrets := []corev1.Secret{
		{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{`)}},
		config(`{"auths":{"https://index.docker.io/v1/":{"username":"hub","password":"1"},"*.example.com":{"auth":"c3RhcjoyCg=="}}}`),
		config(`{"auths":{"reg.example.com/team":{"username":"team","password":"3"}}}`),
		{Type: corev1.SecretTypeDockercfg,
			Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"old.test:5000":{"username":"old","password":"4"}}`)}},
	}
	for image, want := range map[string][]string{
		"nginx": {"hub"}, "reg.example.com/team/app": {"team", "star"}, "reg.example.com/other": {"star"},
		"old.test:5000/x": {"old"}, "elsewhere.test/x": {""},
	} {
		name, err := Normalize(image)
		if err != nil {
			t.Fatal(err)
		}
		got := (&Manager{}).keysFor(name, secrets)
		if len(got.problems) > 0 || got.unreadable != nil {
			t.Fatal(got.problems, got.unreadable)
		}
		var users []string
		for _, c := range got.credentials {
			users = append(users, c.username)
		}
		if strings.Join(users, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got %q, want %q", image, users, want)
		}
	}
	bad := (&Manager{}).keysFor("docker.io/library/x:1", []corev1.Secret{config(`{"auths": "hunter2"`)})
	if bad.unreadable == nil || strings.Contains(bad.unreadable.Error(), "hunter2") {
		t.Errorf("a bad secret: %+v", bad)
	}
}

// What failed because containerd went away is no failure of the image: no event, no backoff, another try at once.
func TestInterruptedIsNotHeldAgainstTheImage(t *testing.T) {
	c, err := client.New(filepath.Join(t.TempDir(), "nobody.sock"), client.WithTimeout(0), client.WithExtraDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffs.DefaultConfig, MinConnectTimeout: 10 * time.Millisecond}),
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := New(t.Context(), Options{Client: c, Snapshotter: "native", Interruption: func() func(context.Context) bool {
		return func(context.Context) bool { return true }
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, policy := range []corev1.PullPolicy{corev1.PullIfNotPresent, corev1.PullAlways} {
		for range 2 {
			var warnings []Event
			_, err := m.Ensure(t.Context(), Request{Image: "127.0.0.1:1/x:1", Policy: policy, Event: func(e Event) {
				if e.Type == corev1.EventTypeWarning || e.Reason == "BackOff" {
					warnings = append(warnings, e)
				}
			}})
			if refused := (*Error)(nil); err == nil || errors.As(err, &refused) || len(warnings) > 0 {
				t.Errorf("%s: error %v, events %v", policy, err, warnings)
			}
		}
	}
}
