package v1alpha1

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestValidateSource(t *testing.T) {
	cases := map[string]struct {
		name string
		spec SourceSpec
		want string // fields, in order
	}{
		"https":             {"shop", SourceSpec{URL: "https://git.example/shop.git", Branch: "main", Path: "deploy/prod"}, ""},
		"the form of scp":   {"shop", SourceSpec{URL: "git@git.example:shop.git", Tag: "v1"}, ""},
		"a folder":          {"shop", SourceSpec{Folder: "/srv/shop", IgnoreKinds: []string{"Job", "Certificate.cert-manager.io"}}, ""},
		"a forge":           {"shop", SourceSpec{URL: "file:///srv/shop.git", Forge: &Forge{Type: "gitea"}, Prune: "allow"}, ""},
		"nothing":           {"shop", SourceSpec{}, "spec.url"},
		"both":              {"shop", SourceSpec{URL: "https://a/b", Folder: "/srv"}, "spec.folder"},
		"a bad name":        {"Shop/1", SourceSpec{Folder: "/srv"}, "metadata.name"},
		"a relative folder": {"shop", SourceSpec{Folder: "shop", Branch: "main", Tag: "v1"}, "spec.folder spec.branch spec.tag spec.tag"},
		"a strange URL":     {"shop", SourceSpec{URL: "/srv/shop.git"}, "spec.url"},
		"branch and tag":    {"shop", SourceSpec{URL: "ssh://a/b", Branch: "main", Tag: "v1"}, "spec.tag"},
		"out of the tree":   {"shop", SourceSpec{URL: "http://a/b", Path: "a/../../b"}, "spec.path"},
		"negative times": {"shop",
			SourceSpec{URL: "http://a/b", Interval: metav1.Duration{Duration: -time.Second}, Timeout: metav1.Duration{Duration: -1}},
			"spec.interval spec.timeout"},
		"patterns": {"shop", SourceSpec{Folder: "/a", IgnoreKinds: []string{"*", "*.monitoring.coreos.com", "Secret.", "x", "*.", "*.*",
			"Service*", "Certificate.cert-manager.io/v1", "cert-manager.io/v1", "*.apps."}},
			"spec.ignoreKinds[4] spec.ignoreKinds[5] spec.ignoreKinds[6] spec.ignoreKinds[7] spec.ignoreKinds[8] spec.ignoreKinds[9]"},
		"unknown words": {"shop", SourceSpec{URL: "http://a/b", IgnoreKinds: []string{""}, Prune: "yes", Forge: &Forge{Type: "sourcehut"}},
			"spec.ignoreKinds[0] spec.prune spec.forge.type"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var fields []string
			for _, e := range ValidateSource(&Source{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: c.spec}) {
				fields = append(fields, e.Field)
			}
			if got := strings.Join(fields, " "); got != c.want {
				t.Errorf("errors about %q, want %q", got, c.want)
			}
		})
	}
}
