package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"lockstep/nodeagent/userns"
)

// featuresTimeout bounds what runc takes to say what it can: milliseconds.
const featuresTimeout = 5 * time.Second

// features are what runc says that it can, of which the oldest that says so is 1.1; the zero value is nothing.
type features struct {
	MountOptions []string
	Linux        struct {
		MountExtensions struct {
			IDMap struct{ Enabled bool }
		}
	}
}

// readFeatures asks the program; empty is runc.
func readFeatures(program string) features {
	ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, cmp.Or(program, "runc"), "features").Output()
	if err != nil {
		return features{}
	}
	return parseFeatures(out)
}

func parseFeatures(text []byte) features {
	var f features
	if json.Unmarshal(text, &f) != nil {
		return features{}
	}
	return f
}

// recursiveReadOnly says whether mounts can be made read-only with all that is mounted below them: the kernel can since
// 5.12.
func (f features) recursiveReadOnly() bool {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	return !errors.Is(err, unix.ENOSYS) && slices.Contains(f.MountOptions, "rro")
}

// noUserNamespaces says why pods cannot have user namespaces of their own; empty: they can. layers is where containerd has
// images' layers, empty where that is not known; dir is where a trial is made.
func (f features) noUserNamespaces(layers, dir string) string {
	if !f.Linux.MountExtensions.IDMap.Enabled {
		return "runc does not mount volumes with other IDs (it can since 1.2)"
	}
	if layers == "" {
		return "containerd does not say where it keeps layers"
	}
	if err := tryShift(layers, dir); err != nil {
		return fmt.Sprintf("the kernel does not mount layers below %s with other IDs: %v", layers, err)
	}
	return ""
}

// tryShift makes an overlay of a folder that is seen with other IDs, as containers of pods with user namespaces have them.
func tryShift(layers, dir string) (err error) {
	dir, err = os.MkdirTemp(dir, "shift")
	if err != nil {
		return err
	}
	seen, empty, whole := filepath.Join(dir, "seen"), filepath.Join(dir, "empty"), filepath.Join(dir, "whole")
	defer func() { err = errors.Join(err, unmount(whole), unmount(seen), os.RemoveAll(dir)) }()
	for _, d := range []string{seen, empty, whole} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	ids := fmt.Sprintf("0:%d:%[1]d", userns.Length)
	users, err := mount.GetUsernsFD(ids, ids)
	if err != nil {
		return err
	}
	defer users.Close()
	if err := idmap(layers, seen, users); err != nil {
		return err
	}
	return unix.Mount("overlay", whole, "overlay", unix.MS_RDONLY, "lowerdir="+seen+":"+empty)
}
