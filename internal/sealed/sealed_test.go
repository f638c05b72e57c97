package sealed

import (
	"bytes"
	"fmt"
	"testing"
)

// TestSealed opens what was sealed, and nothing that is of another key, at another place, or changed in any bit.
func TestSealed(t *testing.T) {
	t.Run("one", func(t *testing.T) { sealing(t, func() sealer { return NewKey() }) })
	t.Run("many", func(t *testing.T) { sealing(t, func() sealer { return NewMany(NewKey()) }) })
	key := NewKey()
	for _, format := range []string{"%v", "%s", "%+v", "%#v"} {
		if got := fmt.Sprintf(format, key); got != "[a key]" {
			t.Errorf("%s shows %q", format, got)
		}
	}
}

func sealing(t *testing.T, another func() sealer) {
	key, text := another(), []byte("yellow-bird")
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
	if got, err := another().Open("here", data); err == nil {
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
}

// sealer is Key and Many.
type sealer interface {
	Seal(place string, data []byte) ([]byte, error)
	Open(place string, data []byte) ([]byte, error)
}

// TestManyIsOpenedElsewhere opens, in another process, what two have sealed with one key, and forgets no key for good.
func TestManyIsOpenedElsewhere(t *testing.T) {
	key := NewKey()
	reader := NewMany(key)
	first, err := NewMany(key).Seal("here", []byte("0"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxDataKeys + 10 {
		data, err := NewMany(key).Seal("here", []byte(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := reader.Open("here", data); err != nil || string(got) != fmt.Sprint(i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if len(reader.known) > maxDataKeys {
		t.Errorf("%d data keys are remembered", len(reader.known))
	}
	if got, err := reader.Open("here", first); err != nil || string(got) != "0" {
		t.Errorf("%q, %v", got, err)
	}
}

func BenchmarkSeal(b *testing.B) {
	key, data := NewKey(), make([]byte, 2000)
	for name, s := range map[string]sealer{"one": key, "many": NewMany(key)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Seal("here", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	key := NewKey()
	for name, s := range map[string]sealer{"one": key, "many": NewMany(key)} {
		data, err := s.Seal("here", make([]byte, 2000))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Open("here", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
