package sync

import (
	"strings"
	"testing"

	"lockstep/sync/source"
)

// TestPointersRefuseARevision: what Git LFS has put in the place of a manifest is told by file and line; left out, it
// would delete what the manifest stated.
func TestPointersRefuseARevision(t *testing.T) {
	rev := &source.Revision{ID: "1", Files: []source.File{{Path: "lfs.yaml", Hash: "1", Read: func() ([]byte, error) {
		return []byte("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), nil
	}}}}
	read := newReader().read(t.Context(), rev, nil)
	if len(read.errors) != 1 || !strings.HasPrefix(read.errors[0], "lfs.yaml:1:1: the file is a Git LFS pointer") {
		t.Errorf("%q", read.errors)
	}
}
