package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseFlag(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "My Shop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ text, name, url, folder, branch, path, fails string }{
		{text: dir, name: "my-shop", folder: dir},
		{text: "shop=" + dir, name: "shop", folder: dir},
		{text: "https://git.example/acme/Shop.git", name: "shop", url: "https://git.example/acme/Shop.git"},
		{text: "https://git.example/acme/shop#main:deploy/prod", name: "shop", url: "https://git.example/acme/shop",
			branch: "main", path: "deploy/prod"},
		{text: "a=ssh://git@git.example:2222/acme/shop.git", name: "a", url: "ssh://git@git.example:2222/acme/shop.git"},
		{text: "git@git.example:acme/shop.git", name: "shop", url: "git@git.example:acme/shop.git"},
		{text: dir + "#main", fails: "a folder has no branch"},
		{text: dir + "/nothing", fails: "no such file"},
		{text: "ftp://git.example/x", fails: `scheme "ftp"`},
		{text: "https://me:hunter2@git.example/x", fails: "holds a password"},
		{text: "https://hunter2@git.example/x", fails: "may be a token"},
		{text: "https://me:hunter2@git.example", fails: "holds a password"},
		{text: "https://me:hun#ter2@git.example", fails: "is not a URL"},
		{text: "a=git:hunter2@git.example:x", fails: "holds a password"},
		{text: "https://git.example/x?private_token=hunter2", fails: "looks like a credential"},
		{text: "https://git.example/x#main:../up", fails: "leads out of the tree"},
	}
	for _, test := range tests {
		s, err := ParseFlag(test.text)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("ParseFlag(%q) fails with %v, want %q", test.text, err, test.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("ParseFlag(%q): %v", test.text, err)
			continue
		}
		got := []string{s.Name, s.Spec.URL, s.Spec.Folder, s.Spec.Branch, s.Spec.Path}
		want := []string{test.name, test.url, test.folder, test.branch, test.path}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("ParseFlag(%q) = %q, want %q", test.text, got, want)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "lockstep.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const head = "apiVersion: lockstep.dev/v1alpha1\nkind: Source\n"
	file, err := Read(write(head + `metadata: {name: shop}
spec:
  url: https://git.example/acme/shop
  interval: 30s
  credentials: {tokenFile: token}
---
` + head + `metadata: {name: base}
spec: {folder: /srv/base}
`))
	sources := file.Sources
	if err != nil || len(sources) != 2 {
		t.Fatalf("Read = %v, %v", sources, err)
	}
	if got, want := sources[0].Spec.Credentials.TokenFile, filepath.Join(dir, "token"); got != want {
		t.Errorf("tokenFile = %q, want %q", got, want)
	}
	for text, want := range map[string]string{
		head + "metadata: {name: a}\nspec: {folder: /a, brunch: x}\n":  `lockstep.yaml:1: strict decoding error: unknown field "spec`,
		head + "metadata: {name: a}\nspec: {folder: /a, folder: /b}\n": "already",
		"apiVersion: v1\nkind: Pod\n":                                  "kind Source",
		head + "metadata: {name: a}\nspec: {folder: /a}\n---\n" +
			head + "metadata: {name: a}\nspec: {folder: /b}\n": "there twice",
		head + "metadata: {name: a}\nspec: {url: 'https://hunter2@git.example/x'}\n": "spec.url: holds a user name",
		head + "spec: {url: 'https://git.example/x?token=hunter2'}\n":                "in its query",
		head + "metadata: {name: a}\nspec: {url: 'https://git.example/x', " +
			"forge: {type: gitea, url: 'https://a:hunter2@git.example'}}\n": "spec.forge.url: holds a password",
		head + "metadata: {name: a}\nspec:\n  folder: /a\n  ignoreKinds:\n  - Certificate\n  - '*.*'\n": "lockstep.yaml:8: cannot use " +
			`source a: spec.ignoreKinds[1]: "*.*" must name a group`,
		head + "metadata: {name: a}\n": "exactly one of url and folder",
	} {
		if _, err := Read(write(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Read(%q) fails with %v, want %q", text, err, want)
		}
	}
}

func TestReadProfiles(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n"
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "lockstep.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file, err := Read(write(head + `- schedulerName: packing
  plugins: {score: {enabled: [{name: NodeResourcesFit, weight: 7}, {name: Expression}], disabled: [{name: "*"}]}}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu}]}}}
  - {name: PodTopologySpread, args: {defaultingType: List}}
  - {name: Expression, args: {expression: "1"}}
- {}
---
apiVersion: lockstep.dev/v1alpha1
kind: Source
metadata: {name: a}
spec: {folder: /a}
`))
	if err != nil || len(file.Profiles) != 2 || len(file.Sources) != 1 {
		t.Fatalf("Read = %+v, %v", file, err)
	}
	p := file.Profiles[0]
	if p.Name != "packing" || p.Fit.Strategy != "MostAllocated" || p.Fit.Resources[0].Weight != 1 || p.Weights["NodeResourcesFit"] != 7 ||
		p.Weights["Expression"] != 1 || p.Weights["ImageLocality"] != 0 || p.Spread == nil || len(*p.Spread) != 0 || p.Expression == nil {
		t.Errorf("the profile is %+v", p)
	}
	if file.Profiles[1].Name != "default-scheduler" {
		t.Errorf("a profile without a name is %q", file.Profiles[1].Name)
	}
	const a = "- {schedulerName: a, "
	for text, want := range map[string]string{
		a + "percentageOfNodesToScore: 5}":                     `unknown field "profiles[0].percentageOfNodesToScore"`,
		"- {schedulerName: a}\n- {schedulerName: a}":           `there are two scheduler profiles "a"`,
		a + "pluginConfig: [{name: ImageLocality, args: {}}]}": "pluginConfig ImageLocality: it has no settings",
		a + "pluginConfig: [{name: Expression, args: {expression: 'node.'}}]}": "lockstep.yaml:1: cannot use " +
			`KubeSchedulerConfiguration: profiles[0] a: pluginConfig Expression: cannot use expression "node.": ` +
			"ERROR: <input>:1:6: Syntax error",
		a + "pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [x]}}]}": `unknown field "ignoredResources"`,
		a + "plugins: {score: {enabled: [{name: Beauty}]}}}":                           `there is no score "Beauty"`,
		a + "plugins: {score: {enabled: [{name: ImageLocality, weight: 999}]}}}":       "cannot weigh ImageLocality by 999",
		a + "pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 0}]}}]}": "" +
			"defaultConstraints[0]: want a topologyKey, and a maxSkew of 1 or more",
	} {
		if _, err := Read(write(head + text + "\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%q) fails with %v, want %q", text, err, want)
		}
	}
}
