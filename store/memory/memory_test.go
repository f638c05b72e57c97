package memory_test

import (
	"testing"

	"lockstep/store"
	"lockstep/store/conformance"
	"lockstep/store/memory"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(*testing.T) store.Backend { return memory.New() })
}
