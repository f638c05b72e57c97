package encryption

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	sigsyaml "sigs.k8s.io/yaml"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/daemon/pki"
	"lockstep/kinds"
	"lockstep/store"
)

// key is a key of so many bytes, each the one given, as a configuration states it.
func key(name string, fill byte, size int) string {
	return fmt.Sprintf("{name: %s, secret: %q}", name, base64.StdEncoding.EncodeToString(bytesOf(fill, size)))
}

func bytesOf(fill byte, size int) []byte {
	out := make([]byte, size)
	for i := range out {
		out[i] = fill
	}
	return out
}

// configuration is a document of one entry.
func configuration(resources, providers string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: " + resources +
		"\n  providers: " + providers + "\n"
}

// TestConfigurations reads configurations as Kubernetes does; what is refused names the field, and never shows a key. Kubernetes' own
// validation is asked too: it refuses what is marked by it, and takes the rest, which is refused since it would not be obeyed.
func TestConfigurations(t *testing.T) {
	gcm := "[{aesgcm: {keys: [" + key("key1", 'k', 32) + "]}}, {identity: {}}]"
	for name, c := range map[string]struct {
		text, want string
		kubernetes bool // refuses it too
	}{
		"works":            {text: configuration("[secrets]", gcm)},
		"wildcards":        {text: configuration("['*.', '*.apps', leases.coordination.k8s.io]", gcm)},
		"everything":       {text: configuration("['*.*']", gcm)},
		"aesgcm, 16 bytes": {text: configuration("[secrets]", "[{aesgcm: {keys: ["+key("a", 'k', 16)+","+key("b", 'l', 24)+"]}}]")},
		"secretbox":        {text: configuration("[secrets]", "[{secretbox: {keys: ["+key("a", 'k', 32)+"]}}]")},
		"identity":         {text: configuration("[secrets]", "[{identity: {}}]")},

		"no entries": {text: "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n",
			want: "resources: at least one is required", kubernetes: true},
		"no resources": {configuration("[]", gcm), "resources[0].resources: at least one is required", true},
		"no providers": {configuration("[secrets]", "[]"), "resources[0].providers: at least one is required", true},
		"two in one": {configuration("[secrets]", "[{identity: {}, secretbox: {keys: ["+key("a", 'k', 32)+"]}}]"),
			"resources[0].providers[0]: want one provider, got 2", true},
		"none in one": {configuration("[secrets]", "[{}]"), "resources[0].providers[0]: want one provider, got 0", true},
		"a short key": {configuration("[secrets]", "[{aesgcm: {keys: ["+key("a", 'k', 31)+"]}}]"),
			"resources[0].providers[0].aesgcm.keys[0].secret: has 31 bytes, want one of [16 24 32]", true},
		"a short box": {configuration("[secrets]", "[{secretbox: {keys: ["+key("a", 'k', 16)+"]}}]"),
			"secretbox.keys[0].secret: has 16 bytes, want one of [32]", true},
		"no base64": {configuration("[secrets]", "[{aesgcm: {keys: [{name: a, secret: 'kkkkkkkk!'}]}}]"),
			"aesgcm.keys[0].secret: is not base64", true},
		"no keys":  {configuration("[secrets]", "[{aesgcm: {keys: []}}]"), "aesgcm.keys: at least one is required", true},
		"no name":  {configuration("[secrets]", "[{aesgcm: {keys: ["+key("''", 'k', 32)+"]}}]"), "aesgcm.keys[0].name: is required", true},
		"star":     {configuration("['*']", gcm), `resources[0].resources[0]: "*" is not enough`, true},
		"no group": {configuration("['secrets.*']", gcm), "one resource in every group", true},
		"twice":    {configuration("[secrets, secrets]", gcm), `resources[0].resources[1]: "secrets" is named twice`, true},
		"overlap":  {configuration("[secrets, '*.']", gcm), `"*." is named twice`, true},
		"two names": {configuration("[secrets]", "[{aesgcm: {keys: ["+key("a", 'k', 32)+","+key("a", 'l', 32)+"]}}]"),
			"one of this name", false},
		"colon":    {configuration("[secrets]", "[{aesgcm: {keys: ["+key("'a:b'", 'k', 32)+"]}}]"), "keys[0].name: has a colon", false},
		"misspelt": {configuration("[secret]", gcm), `resources[0].resources[0]: "secret" is no resource that is stored here`, false},
		"aescbc": {configuration("[secrets]", "[{aescbc: {keys: ["+key("a", 'k', 32)+"]}}]"),
			"resources[0].providers[0].aescbc: is not supported, as what it stores can be changed unnoticed", false},
		"kms": {configuration("[secrets]", "[{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 3s}}]"),
			"resources[0].providers[0].kms: is not supported", false},
	} {
		c0, err := parse([]byte(c.text))
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "kkkk") {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
		if c.want == "" && len(c0.providers) == 0 {
			t.Errorf("%s: it is for nothing", name)
		}
		var theirs apiserverv1.EncryptionConfiguration
		if err := sigsyaml.Unmarshal([]byte(c.text), &theirs); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		internal := &apiserver.EncryptionConfiguration{}
		if err := apiserverv1.Convert_v1_EncryptionConfiguration_To_apiserver_EncryptionConfiguration(&theirs, internal, nil); err != nil {
			t.Fatal(err)
		}
		if errs := validation.ValidateEncryptionConfiguration(internal, false); (len(errs) > 0) != c.kubernetes {
			t.Errorf("%s: Kubernetes says %v", name, errs)
		}
	}
	for name, text := range map[string]string{
		"a field":  strings.Replace(configuration("[secrets]", gcm), "resources:\n", "resource: []\nresources:\n", 1),
		"twice":    configuration("[secrets]", gcm) + "kind: EncryptionConfiguration\n",
		"a kind":   strings.Replace(configuration("[secrets]", gcm), "kind: Enc", "kind: Dec", 1),
		"a number": configuration("[secrets]", "[{aesgcm: {keys: [{name: a, secret: {kkkkkkkk: 1}}]}}]"),
		"no YAML":  configuration("[secrets]", "[{aesgcm: {keys: [{name: a, secret: 'kkkkkkkk}]}}]"),
		"two":      configuration("[secrets]", gcm) + "---\n" + configuration("[secrets]", gcm),
		"empty":    "",
		"a list":   "[]",
	} {
		if _, err := parse([]byte(text)); err == nil || strings.Contains(err.Error(), "kkkk") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add(configuration("[secrets]", "[{aesgcm: {keys: ["+key("key1", 'k', 32)+"]}}, {identity: {}}]"))
	f.Add(configuration("['*.*']", "[{secretbox: {keys: ["+key("key1", 'k', 32)+"]}}]"))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse([]byte(text))
		if err != nil {
			return
		}
		for kind, providers := range c.providers {
			if len(providers) == 0 {
				t.Errorf("%s has no provider", kind)
			}
		}
	})
}

func file(t *testing.T, text string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConfiguredKeys goes from the cluster's own keys to those of a file, through a rotation there, and back; each time everything is
// sealed anew. Between, servers without what is needed say so.
func TestConfiguredKeys(t *testing.T) {
	client, dir := etcdtest.Client(t), t.TempDir()
	s := must(t, client, "one", dir, Config{})
	s.mustPut(secret("a", canary), 0)
	own := s.keyring.First().Writes
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	key1, key2 := key("key1", 'k', 32), key("key2", 'l', 32)
	config := func(providers string) string { return configuration("[secrets]", providers) }
	for _, step := range []struct {
		name, text, writes, refused string
	}{
		{"a file", config("[{aesgcm: {keys: [" + key1 + "]}}, {identity: {}}]"), "aesgcm:key1", ""},
		{"without it", "", "", "sealed with key aesgcm:key1 of an EncryptionConfiguration: name its file, --encryption-config"},
		{"another key of its name", config("[{aesgcm: {keys: [" + key("key1", 'm', 32) + "]}}]"), "", "does not open with key aesgcm:key1"},
		{"without the key", config("[{aesgcm: {keys: [" + key2 + "]}}]"), "", "sealed with key aesgcm:key1, which is not in"},
		{"a new key first", config("[{aesgcm: {keys: [" + key2 + "," + key1 + "]}}]"), "aesgcm:key2", ""},
		{"the old one gone", config("[{aesgcm: {keys: [" + key2 + "]}}]"), "aesgcm:key2", ""},
		{"a box", config("[{secretbox: {keys: [" + key1 + "]}}, {aesgcm: {keys: [" + key2 + "]}}]"), "secretbox:key1", ""},
		{"in plain", config("[{identity: {}}, {secretbox: {keys: [" + key1 + "]}}]"), "", ""},
		{"plain is not read", config("[{secretbox: {keys: [" + key1 + "]}}]"), "", "state identity: {} as the last"},
		{"other kinds", configuration("[configmaps]", "[{secretbox: {keys: ["+key1+"]}}]"), "", ""},
		{"the cluster's own", "", own, ""},
	} {
		var c Config
		if step.text != "" {
			c = file(t, step.text)
		}
		before := raw(t, client)[keyOfA]
		s, err := start(t, client, "one", dir, c)
		if step.refused != "" {
			if err == nil || !strings.Contains(err.Error(), step.refused) || !strings.Contains(err.Error(), "Secret shop/a") {
				t.Errorf("%s: %v, want %q", step.name, err, step.refused)
			}
			if raw(t, client)[keyOfA] != before {
				t.Errorf("%s: something was changed", step.name)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		for n, err := s.store.Rewrite(t.Context(), s.store); n > 0 || err != nil; n, err = s.store.Rewrite(t.Context(), s.store) {
			if err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		if got := s.text("a"); got != canary {
			t.Errorf("%s: read %q", step.name, got)
		}
		if got := s.store.Seals(); got.Stale != 0 || s.keyring.Writes(keyOfA) != step.writes {
			t.Errorf("%s: sealed %+v, want with %q", step.name, got, step.writes)
		}
		if plain := strings.Contains(raw(t, client)[keyOfA], canary); plain != (step.writes == "") {
			t.Errorf("%s: stored in plain: %v", step.name, plain)
		}
		if c.Path != "" {
			_, err := Rotate(t.Context(), Options{Store: s.store, Keyring: s.keyring})
			if err == nil || !strings.Contains(err.Error(), "keys are stated in "+c.Path) {
				t.Errorf("%s: rotated: %v", step.name, err)
			}
		}
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlaces has values of every provider stored at another etcd key: none is opened there.
func TestPlaces(t *testing.T) {
	keys, err := pki.OpenSealingKeys(pki.Dir(t.TempDir()), now, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"own":       {},
		"aesgcm":    file(t, configuration("[secrets]", "[{aesgcm: {keys: ["+key("a", 'k', 16)+"]}}]")),
		"secretbox": file(t, configuration("[secrets]", "[{secretbox: {keys: ["+key("a", 'k', 32)+"]}}]")),
	} {
		k := NewKeyring(c, keys)
		if err := k.Learn(k.First().Record().Data); err != nil {
			t.Fatal(err)
		}
		data, err := k.ToStorage(keyOfA, nil, []byte(canary))
		if err != nil || !strings.HasPrefix(string(data), store.SealedPrefix) || strings.Contains(string(data), canary) {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if out, by, err := k.FromStorage(keyOfA, data); err != nil || string(out) != canary || by != k.Writes(keyOfA) || by == "" {
			t.Errorf("%s: %q by %q, %v", name, out, by, err)
		}
		for _, at := range []string{keyOfB, "/lockstep/records/desired/" + rowOfA, "/other" + keyOfA} {
			if out, _, err := k.FromStorage(at, data); err == nil {
				t.Errorf("%s: opened at %s: %q", name, at, out)
			}
		}
	}
}

// TestResources tells of what kind an etcd key is.
func TestResources(t *testing.T) {
	for key, want := range map[string]string{
		keyOfA:                                      "core/secrets",
		"/lockstep/objects/core/nodes/-/a":          "core/nodes",
		"/lockstep/objects/apps/deployments/a/b":    "apps/deployments",
		"/lockstep/events/a/b":                      "core/events",
		"/lockstep/records/desired/" + rowOfA:       "core/secrets",
		"/lockstep/records/staged/" + rowOfA:        "core/secrets",
		"/lockstep/records/source/apps":             "",
		"/lockstep/records/token/abc":               "",
		"/lockstep/heartbeats/one":                  "",
		"/lockstep/cluster":                         "",
		"/lockstep/objects/core":                    "",
		"/other/objects/core/secrets/shop/a":        "",
		"/lockstep/records/encryption/state":        "",
		"/lockstep/objects/" + "core/secrets/a/b/c": "core/secrets",
	} {
		if got := resource(key); got != want {
			t.Errorf("%s is of %q, want %q", key, got, want)
		}
	}
	for _, k := range kinds.All {
		if want := pathOf(k.GroupResource()); resource(store.DefaultPrefix+"objects/"+k.Key("a", "b").Path()) != want {
			t.Errorf("%s is not found by its key", k.Kind)
		}
	}
}
