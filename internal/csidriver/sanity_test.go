package csidriver

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
)

func TestMain(m *testing.M) {
	asroot.Main("the tests of internal/csidriver")
	apart.Main(syscall.CLONE_NEWNS)
	m.Run()
}

// TestSanity holds the driver to what CSI wants of drivers: what the node does with it is right for others, too.
func TestSanity(t *testing.T) {
	dir := t.TempDir()
	d, err := New(Options{Name: "sanity.csi.example.org", Node: "n1", Dir: filepath.Join(dir, "disk"), Attach: true,
		Controller: true, NodeService: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "csi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, l) }()
	config := sanity.NewTestConfig()
	config.Address = filepath.Join(dir, "csi.sock")
	config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
	config.TestVolumeAccessType = "mount"
	sanity.Test(t, config)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
