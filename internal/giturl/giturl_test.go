package giturl

import (
	"strings"
	"testing"
)

const canary = "c4n4ry"

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		"https://git.example.org/acme/shop.git":                      "",
		"http://git.example.org:3000/acme/shop.git?depth=1":          "",
		"ssh://git@git.example.org:2222/acme/shop.git":               "",
		"git@git.example.org:acme/shop.git":                          "",
		"file:///srv/shop.git":                                       "",
		"https://ada:c4n4ry@git.example.org/shop.git":                "holds a password",
		"https://ada:@git.example.org/shop.git":                      "holds a password",
		"https://c4n4ry@git.example.org/shop.git":                    "may be a token",
		"https://@git.example.org/shop.git":                          "may be a token",
		"ssh://git:c4n4ry@git.example.org/shop.git":                  "holds a password",
		"git:c4n4ry@git.example.org:shop.git":                        "holds a password",
		"file://ada@localhost/srv":                                   "may be a token",
		"https://git.example.org/shop.git?private_token=c4n4ry":      "in its query",
		"https://git.example.org/shop.git?a=b;ACCESS%5FTOKEN=c4n4ry": "in its query",
		"https://git.example.org/shop.git?key=c4n4ry":                "in its query",
		"https://git.example.org/shop.git?X-Amz-Signature=c4n4ry":    "in its query",
		"ftp://git.example.org/shop.git":                             `scheme "ftp"`,
		"ext::sh -c id":                                              `scheme "ext"`,
		"fd::17":                                                     `scheme "fd"`,
		"--upload-pack=x":                                            `scheme ""`,
		"//git.example.org/shop.git":                                 `scheme ""`,
		"git@-oProxyCommand=id:x":                                    "is not a URL",
		"git@-host:x":                                                "is not a URL",
		"git@git.example.org:x\n":                                    "is not a URL",
		"ssh://-oProxyCommand=id/x":                                  "names no host",
		"ssh://git@-oProxyCommand=id/x":                              "names no host",
		"ssh:///x":                                                   "names no host",
		"https://:80/x":                                              "names no host",
		"http:git.example.org/x":                                     "has no // after http:",
		"HTTP:/git.example.org/x":                                    "has no // after http:",
		"file:-x":                                                    "has no // after file:",
		"file:/srv/shop.git":                                         "has no // after file:",
		"file://-x":                                                  "names a host",
		"file://../../etc":                                           "names a host",
		"file://localhost/srv/shop.git":                              "",
		"ssh://git%3Ac4n4ry@git.example.org/x":                       "may be a password",
		"ssh://git%0a@git.example.org/x":                             "may be a password",
		"https://evil.example#@git.example.org/x":                    "after #",
		"https://git.example.org:80@evil.example/x":                  "holds a password",
		"https://ada:c4n4ry%zz@git.example.org/":                     "is not a URL",
		"https://git.example.org/\x1b[2J":                            "is not a URL",
	} {
		err := Check(text)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		case err != nil && strings.Contains(err.Error(), canary):
			t.Errorf("%s: a credential in %v", text, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"https://git.example.org/shop.git?b=2&a=1":    "https://git.example.org/shop.git?b=2&a=1",
		"https://ada:c4n4ry@git.example.org/shop.git": "https://git.example.org/shop.git",
		"https://c4n4ry@git.example.org/shop.git":     "https://git.example.org/shop.git",
		"ssh://git:c4n4ry@git.example.org/shop.git":   "ssh://git@git.example.org/shop.git",
		"git@git.example.org:shop.git":                "git@git.example.org:shop.git",
		"git:c4n4ry@git.example.org:shop.git":         "git.example.org:shop.git",
		"https://ada:c4n4ry%zz@git.example.org/":      "https://git.example.org/",
		"https://git.example.org/?token=c4n4ry&a=1":   "https://git.example.org/?token=REDACTED&a=1",
		"HTTPS://Git.example.org/a%2Fb?x=%41#f":       "HTTPS://Git.example.org/a%2Fb?x=%41#f",
		"/srv/shop.git":                               "/srv/shop.git",
		"":                                            "",
		"file:///srv/a@b/shop.git":                    "file:///srv/a@b/shop.git",
	} {
		if got := Redact(text); got != want {
			t.Errorf("Redact(%s) = %s, want %s", text, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		`Get "https://c4n4ry@git.example.org/shop.git/info/refs?service=git-upload-pack": refused`: `Get ` +
			`"https://git.example.org/shop.git/info/refs?service=git-upload-pack": refused`,
		"moved to https://git.example.org/?token=c4n4ry, try (http://ada:c4n4ry@other:80/x) or ada:c4n4ry@host:path": "moved to " +
			"https://git.example.org/?token=REDACTED, try (http://other:80/x) or host:path",
		"a.yaml:14:3: spec.image: registry.example.org/a@sha256:abc": "a.yaml:14:3: spec.image: registry.example.org/a@sha256:abc",
		"cannot read https://ada:c4n4ry@h: no":                       "cannot read https://h: no",
	} {
		got := Text(text)
		if got != want {
			t.Errorf("Text(%s)\n got %s\nwant %s", text, got, want)
		}
		if again := Text(got); again != got {
			t.Errorf("twice: %s, then %s", got, again)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("https", "ada", "/x?token=")
	f.Fuzz(func(t *testing.T, scheme, user, rest string) {
		for _, c := range scheme + user {
			if c < 'a' || c > 'z' {
				return
			}
		}
		if scheme == "" {
			return
		}
		text := scheme + "://" + user + ":c4n4ry@host/" + rest
		if got := Redact(text); strings.Contains(got, canary) && !strings.Contains(rest, canary) {
			t.Errorf("Redact(%q) = %q", text, got)
		}
		if got := Text("see " + text); strings.Contains(got, canary) && !strings.Contains(rest, canary) {
			t.Errorf("Text(%q) = %q", text, got)
		}
	})
}
