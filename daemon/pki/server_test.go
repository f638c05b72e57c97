package pki

import (
	"crypto/tls"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/store/memory"
)

// TestServerTokens: a token is good for one server, in its time, and says why it is not only to who has its secret.
func TestServerTokens(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	backend := memory.New()
	tokens := Tokens{Store: backend, Commit: backend, Now: func() time.Time { return now }}
	create := func(o TokenOptions) Token {
		t.Helper()
		token, err := tokens.Create(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	server := []string{UsageServer}
	any, named := create(TokenOptions{Usages: server, TTL: time.Hour}), create(TokenOptions{Usages: server, TTL: time.Hour, Server: "b"})
	node, view := create(TokenOptions{TTL: time.Hour}), create(TokenOptions{Usages: []string{UsageView}})
	mine, other := newRequest(t, newKey(t)), newRequest(t, newKey(t))
	for _, c := range []struct {
		what, bearer, name string
		csr                []byte
		after              time.Duration
		want               error
	}{
		{"a node's", node.Bearer(), "b", mine, 0, ErrTokenUse},
		{"a viewer's", view.Bearer(), "b", mine, 0, ErrTokenUse},
		{"a node's without its secret", node.ID + ".x", "b", mine, 0, ErrToken},
		{"none", "x.y", "b", mine, 0, ErrToken},
		{"no token at all", "x", "b", mine, 0, ErrToken},
		{"with a wrong secret", any.ID + "." + node.Secret, "b", mine, 0, ErrToken},
		{"with what is no request", any.Bearer(), "b", []byte("x"), 0, ErrRequest},
		{"for another name", named.Bearer(), "a", mine, 0, ErrTokenBound},
		{"late", any.Bearer(), "b", mine, time.Hour, ErrTokenExpired},
		{"late, without its secret", any.ID + ".x", "b", mine, time.Hour, ErrToken},
		{"the first", any.Bearer(), "b", mine, 0, nil},
		{"the first again", any.Bearer(), "b", mine, time.Minute, nil},
		{"a second with it", any.Bearer(), "b", other, 0, ErrTokenBound},
		{"the first by another name", any.Bearer(), "c", mine, 0, ErrTokenBound},
		{"for its name", named.Bearer(), "b", other, 0, nil},
	} {
		before := backend.View().Revision()
		now = now.Add(c.after)
		err := tokens.ServerToken(t.Context(), c.bearer, c.name, c.csr)
		now = now.Add(-c.after)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if c.want != nil && backend.View().Revision() != before {
			t.Errorf("%s: something was written", c.what)
		}
	}
	if _, err := tokens.Check(named, UsageJoin); !errors.Is(err, ErrToken) {
		t.Errorf("a server's token lets a node join: %v", err)
	}
}

// TestPeerCertificate: it is for both ends of a connection between servers, made anew in time, and nobody else can have its name.
func TestPeerCertificate(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	a := open(t, dir, func() time.Time { return now })
	read := func(host string) *tls.Certificate {
		t.Helper()
		ca, file, err := a.KeepPeer(Dir(dir), host)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(file, file)
		if err != nil || !strings.HasSuffix(ca, caCertFile) {
			t.Fatal(ca, err)
		}
		return &pair
	}
	first := read("192.0.2.1")
	if first.Leaf.Subject.CommonName != PeerName || first.Leaf.VerifyHostname("192.0.2.1") != nil {
		t.Errorf("it is of %s for %v", first.Leaf.Subject, first.Leaf.IPAddresses)
	}
	if again := read("192.0.2.1"); !again.Leaf.Equal(first.Leaf) {
		t.Error("it was made anew without need")
	}
	if moved := read("192.0.2.2"); moved.Leaf.VerifyHostname("192.0.2.2") != nil {
		t.Error("it is for another address")
	}
	second := read("192.0.2.2")
	now = now.Add(serverLifetime*2/3 + time.Minute)
	if third := read("192.0.2.2"); third.Leaf.Equal(second.Leaf) {
		t.Error("it was not made anew when a third of its life was left")
	}
	if err := CheckNames(PeerName, nil); err == nil {
		t.Error("a user may have the name of servers")
	}
}

// TestHandover gives a cluster's keys to another server: all or none of them, and those of that cluster alone.
func TestHandover(t *testing.T) {
	now := time.Now()
	from := t.TempDir()
	a := open(t, from, at(now))
	docs, err := Export(Dir(from))
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(docs)); !slices.Equal(names, []string{caCertFile, caKeyFile, accountKeyFile}) {
		t.Errorf("handed over are %v", names)
	}
	to := t.TempDir()
	for range 2 { // it may have to ask again
		if err := Import(Dir(to), a.Pin(), docs); err != nil {
			t.Fatal(err)
		}
	}
	if b := open(t, to, at(now)); b.Pin() != a.Pin() || !b.AccountKey().Equal(a.AccountKey()) {
		t.Error("the other server has other keys")
	}
	stranger := t.TempDir()
	open(t, stranger, at(now))
	others, err := Export(Dir(stranger))
	if err != nil {
		t.Fatal(err)
	}
	without := maps.Clone(docs)
	delete(without, accountKeyFile)
	more := maps.Clone(docs)
	more["../peer.pem"] = []byte("x")
	for what, c := range map[string]struct {
		to   string
		docs map[string][]byte
		want string
	}{
		"another cluster's":         {t.TempDir(), others, "another cluster's than the token's"},
		"not all":                   {t.TempDir(), without, "sa.key is missing"},
		"what is none of them":      {t.TempDir(), more, `"../peer.pem" is none of them`},
		"to one of another cluster": {stranger, docs, "those of another cluster already"},
		"none":                      {t.TempDir(), nil, "cannot take over"},
	} {
		before, _ := Export(Dir(c.to))
		err := Import(Dir(c.to), a.Pin(), c.docs)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := Export(Dir(c.to)); !maps.EqualFunc(before, after, slices.Equal) {
			t.Errorf("%s: something was written", what)
		}
	}
}
