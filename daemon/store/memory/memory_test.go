package memory_test

import (
	"testing"

	"lockstep/daemon/store"
	"lockstep/daemon/store/conformance"
	"lockstep/daemon/store/memory"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(*testing.T) store.Backend { return memory.New() })
}
