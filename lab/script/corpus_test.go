//go:build corpus

package script

import "testing"

// TestCorpus runs public applications of $LOCKSTEP_CORPUS. It belongs to make test-corpus.
func TestCorpus(t *testing.T) { newStage(t).Run(t, "testdata/corpus") }
