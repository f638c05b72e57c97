package machine

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// featuresTimeout bounds what runc takes to say what it can: milliseconds.
const featuresTimeout = 5 * time.Second

// recursiveReadOnly says whether mounts can be made read-only with all that is mounted below them: the kernel can since
// 5.12, runc since 1.1, which is also the first that says so.
func recursiveReadOnly() bool {
	if err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "runc", "features").Output()
	return err == nil && hasMountOption(out, "rro")
}

// hasMountOption reads what runc says of its features.
func hasMountOption(features []byte, option string) bool {
	var f struct{ MountOptions []string }
	return json.Unmarshal(features, &f) == nil && slices.Contains(f.MountOptions, option)
}
