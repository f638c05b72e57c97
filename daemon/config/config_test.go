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
	sources, err := Read(write(head+`metadata: {name: shop}
spec:
  url: https://git.example/acme/shop
  interval: 30s
  credentials: {tokenFile: token}
---
`+head+`metadata: {name: base}
spec: {folder: /srv/base}
`), nil)
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
		_, err := Read(write(text), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Read(%q) fails with %v, want %q", text, err, want)
		}
	}
}
