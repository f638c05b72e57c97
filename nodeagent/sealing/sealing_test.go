package sealing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func of(t *testing.T) (Sealer, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return New(func() (*ecdsa.PrivateKey, error) { return key, nil }), key
}

// TestSealer opens what one key has sealed for a place with that key for that place alone, and what was never sealed as it is.
func TestSealer(t *testing.T) {
	s, key := of(t)
	text := []byte(`{"a":"yellow-bird"}`)
	data, err := s.Seal("here", text)
	if err != nil || bytes.Contains(data, []byte("yellow")) {
		t.Fatalf("%q, %v", data, err)
	}
	again := New(func() (*ecdsa.PrivateKey, error) { return key, nil })
	if got, err := again.Open("here", data); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q, %v", got, err)
	}
	other, _ := of(t)
	for name, open := range map[string]func() ([]byte, error){
		"another node":  func() ([]byte, error) { return other.Open("here", data) },
		"another place": func() ([]byte, error) { return s.Open("there", data) },
		"damaged":       func() ([]byte, error) { return s.Open("here", data[:len(data)-1]) },
		"without a key": func() ([]byte, error) { return Sealer{}.Open("here", data) },
		"the key cannot be read": func() ([]byte, error) {
			return New(func() (*ecdsa.PrivateKey, error) { return nil, errors.New("no disk") }).Open("here", data)
		},
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened %q", name, got)
		}
	}
	for _, s := range []Sealer{s, {}} {
		if got, err := s.Open("here", text); err != nil || !bytes.Equal(got, text) {
			t.Errorf("what was never sealed: %q, %v", got, err)
		}
	}
}

// TestSealAll seals what an older agent has kept, once.
func TestSealAll(t *testing.T) {
	s, _ := of(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.json")
	text := []byte(`{"a":"yellow-bird"}`)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var before []byte
	for range 2 {
		if err := s.SealAll(dir, func(name string) string { return "kept/" + name }); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || bytes.Contains(data, []byte("yellow")) || before != nil && !bytes.Equal(data, before) {
			t.Errorf("%q, %v", data, err)
		}
		if got, err := s.Open("kept/a.json", data); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%q, %v", got, err)
		}
		before = data
	}
	if err := s.SealAll(filepath.Join(dir, "none"), nil); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}
