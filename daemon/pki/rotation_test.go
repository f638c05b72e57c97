package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"lockstep/store/memory"
)

// trusts says whether somebody who has these certificates knows a server by what it shows.
func trusts(t *testing.T, bundle []byte, server tls.Certificate) bool {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, der := range server.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(cert)
	}
	_, err := server.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "127.0.0.1"})
	return err == nil
}

// admits says whether an authority takes a client's certificate.
func admits(t *testing.T, a *Authority, certPEM []byte) bool {
	t.Helper()
	cert, err := certificate(string(certPEM))
	if err != nil {
		t.Fatal(err)
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

func noFetch(context.Context) ([]byte, error) { return nil, errors.New("nobody gives it") }

// TestRotation replaces an authority of two servers, which are opened anew at each step: who knows the old one alone knows servers until
// it is dropped, who knows the new one from the beginning, and what keeps it from its next phase is told by name.
func TestRotation(t *testing.T) {
	one, two := Dir(t.TempDir()), Dir(t.TempDir())
	open := func(d Dir) *Authority {
		a, err := Open(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open(one)
	if err := os.CopyFS(string(two), os.DirFS(string(one))); err != nil {
		t.Fatal(err)
	}
	b := open(two)
	s := memory.New()
	now := time.Now()
	old := a.PEM()
	oldPin := a.Pin()
	user, _, err := a.Viewer("ann", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Issued(t.Context(), s, user); err != nil {
		t.Fatal(err)
	}
	standing := func(nodes map[string]string) Standing { return StandingIn(s.View(), []string{"a", "b"}, nodes, now) }
	waits := func(nodes map[string]string) string {
		t.Helper()
		r, _, err := Rotating(s.View())
		if err != nil {
			t.Fatal(err)
		}
		w, err := r.Waits(standing(nodes))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(w, "; ")
	}
	advance := func(nodes map[string]string, want bool) {
		t.Helper()
		if went, err := Advance(t.Context(), s.View(), s, standing(nodes), false, now); err != nil || went != want {
			t.Fatalf("it goes on: %v, %v, want %v", went, err, want)
		}
	}
	follow := func(x *Authority, name string, from *Authority) {
		t.Helper()
		fetch := noFetch
		if from != nil {
			fetch = func(context.Context) ([]byte, error) { return from.Incoming() }
		}
		if err := x.Follow(t.Context(), s.View(), s, name, fetch); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(x *Authority) tls.Certificate {
		t.Helper()
		c, err := x.Server([]string{"127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	if went, err := Advance(t.Context(), s.View(), s, standing(nil), false, now); err != nil || went {
		t.Errorf("without a rotation it goes on: %v, %v", went, err)
	}
	before := a.Mark()
	changed := a.Changed()
	if err := a.Rotate(t.Context(), s.View(), s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told that another authority is trusted")
	}
	if err := b.Rotate(t.Context(), s.View(), s); !errors.Is(err, ErrRotating) {
		t.Errorf("a second rotation: %v", err)
	}
	if a.Mark() == before || a.Pin() != oldPin || !trusts(t, old, shown(a)) {
		t.Error("once there is a next one, the old one does not sign, or the mark is the same")
	}
	if w := waits(nil); w != "server a does not trust the new CA yet; server b does not trust the new CA yet" {
		t.Errorf("it waits for: %s", w)
	}
	follow(a, "a", nil)
	advance(nil, false)
	if err := b.Follow(t.Context(), s.View(), s, "b", noFetch); err == nil || !strings.Contains(err.Error(), "nobody gives it") {
		t.Errorf("a server that is not given the next one: %v", err)
	}
	a, b = open(one), open(two)
	follow(b, "b", a)
	other, err := Open(Dir(t.TempDir()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	itsOwn := func(context.Context) ([]byte, error) { return other.vault.Read(caKeyFile) }
	if err := other.Follow(t.Context(), s.View(), s, "x", itsOwn); err == nil ||
		!strings.Contains(err.Error(), "another CA than the cluster is to have") {
		t.Errorf("a server that is given another one: %v", err)
	}
	advance(nil, true)
	if w := waits(map[string]string{"n1": ""}); !strings.Contains(w, "node n1 has a certificate of the old CA") ||
		!strings.Contains(w, "user ann has a certificate of the old CA until") || !strings.Contains(w, "server b does not sign") {
		t.Errorf("it waits for: %s", w)
	}

	a, b = open(one), open(two)
	follow(a, "a", nil)
	follow(a, "a", nil) // again is nothing
	err = DropOld(t.Context(), s.View(), s, standing(nil), now)
	if err == nil || !strings.Contains(err.Error(), "server b does not sign") {
		t.Errorf("the old one is dropped while a server signs by it: %v", err)
	}
	follow(b, "b", a)
	a, b = open(one), open(two)
	nodes := map[string]string{"n1": a.Mark()}
	fresh, _, err := a.Viewer("bob", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if a.Pin() == oldPin || a.Pin() != b.Pin() || a.Mark() != b.Mark() {
		t.Error("the new one does not sign on all servers")
	}
	for what, is := range map[string]bool{
		"who knows the old one alone knows a server": trusts(t, old, shown(a)), "who knows both knows one": trusts(t, a.PEM(), shown(b)),
		"who knows the new one knows one": trusts(t, a.current().is.pem, shown(a)),
		"a user of the old one is known":  admits(t, b, user), "a user of the new one is known": admits(t, b, fresh),
	} {
		if !is {
			t.Errorf("while both are trusted it is not so that %s", what)
		}
	}
	advance(nodes, false) // ann
	if err := DropOld(t.Context(), s.View(), s, standing(nodes), now); err != nil {
		t.Fatal(err)
	}
	follow(a, "a", nil)
	follow(b, "b", nil)
	a, b = open(one), open(two)
	if admits(t, a, user) || !admits(t, b, fresh) || trusts(t, old, shown(a)) || !trusts(t, a.PEM(), shown(b)) {
		t.Error("once it is dropped the old one is trusted still, or the new one is not")
	}
	if strings.Count(string(a.PEM()), "BEGIN") != 1 {
		t.Errorf("the bundle is %s", a.PEM())
	}
	if err := DropOld(t.Context(), s.View(), s, standing(nodes), now); err == nil {
		t.Error("what was dropped is dropped again")
	}

	// The next one is replaced in its turn, and goes on by itself where nobody has the old one.
	if err := b.Rotate(t.Context(), s.View(), s); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		follow(b, "b", nil)
		follow(a, "a", b)
		advance(map[string]string{"n1": a.Mark()}, true)
	}
	follow(a, "a", nil)
	if r, _, _ := Rotating(s.View()); r.Phase != PhaseDone || a.Pin() == string(r.Old) {
		t.Errorf("the second one ends as %s", r.Phase)
	}
}

// TestRotationCrashes: whatever of a switch was written when the power went, an authority opens as it was before or as it is after, and the
// switch is done again.
func TestRotationCrashes(t *testing.T) {
	for stop := range 5 {
		dir := Dir(t.TempDir())
		a, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		was := a.Pin()
		if _, err := a.Next(); err != nil {
			t.Fatal(err)
		}
		a.vault = &failing{Vault: dir, left: stop}
		failed := a.Switch()
		again, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("after %d writes: %v", stop, err)
		}
		if failed != nil && again.Pin() != was && stop < 2 {
			t.Errorf("after %d writes the new one signs", stop)
		}
		if err := again.Switch(); err != nil {
			t.Fatalf("after %d writes it is not done again: %v", stop, err)
		}
		if again.Pin() == was || len(again.current().trusted()) != 2 {
			t.Errorf("after %d writes, and again, %d are trusted", stop, len(again.current().trusted()))
		}
	}
}

// failing is a vault that takes so many writes.
type failing struct {
	Vault
	left int
}

func (f *failing) Replace(name string, data []byte) error {
	if f.left == 0 {
		return errors.New("the power went")
	}
	f.left--
	return f.Vault.Replace(name, data)
}
