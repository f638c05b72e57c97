package images

import (
	"context"
	"testing"
)

// BenchmarkPresent is what every container start pays for an image that is here.
func BenchmarkPresent(b *testing.B) {
	f := newFixture(b)
	f.push("library/app:1")
	if _, _, err := f.ensure(Request{Image: "app:1"}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := f.Ensure(context.Background(), Request{Image: "app:1"}); err != nil {
			b.Fatal(err)
		}
	}
}
