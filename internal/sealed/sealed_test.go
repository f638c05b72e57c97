package sealed

import (
	"bytes"
	"fmt"
	"testing"
)

// TestSealed opens what was sealed, and nothing that is of another key, at another place, or changed in any bit.
func TestSealed(t *testing.T) {
	key, text := NewKey(), []byte("yellow-bird")
	data, err := key.Seal("here", text)
	if err != nil || bytes.Contains(data, text) {
		t.Fatalf("%q, %v", data, err)
	}
	if again, err := key.Seal("here", text); err != nil || bytes.Equal(again, data) {
		t.Errorf("sealed twice alike: %v", err)
	}
	if got, err := key.Open("here", data); err != nil || !bytes.Equal(got, text) {
		t.Errorf("opened %q, %v", got, err)
	}
	if got, err := key.Open("there", data); err == nil {
		t.Errorf("opened elsewhere: %q", got)
	}
	if got, err := NewKey().Open("here", data); err == nil {
		t.Errorf("opened with another key: %q", got)
	}
	for i := range data {
		for bit := range 8 {
			changed := bytes.Clone(data)
			changed[i] ^= 1 << bit
			if got, err := key.Open("here", changed); err == nil {
				t.Fatalf("opened with bit %d of byte %d changed: %q", bit, i, got)
			}
		}
	}
	for n := range len(data) {
		if got, err := key.Open("here", data[:n]); err == nil {
			t.Fatalf("opened %d of %d bytes: %q", n, len(data), got)
		}
	}
	for _, format := range []string{"%v", "%s", "%+v", "%#v"} {
		if got := fmt.Sprintf(format, key); got != "[a key]" {
			t.Errorf("%s shows %q", format, got)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	key, data := NewKey(), make([]byte, 2000)
	for b.Loop() {
		if _, err := key.Seal("here", data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	key := NewKey()
	data, err := key.Seal("here", make([]byte, 2000))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := key.Open("here", data); err != nil {
			b.Fatal(err)
		}
	}
}
