package volumes

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// spaceTimeout bounds asking a file system how full it is; a server far away answers within seconds.
const spaceTimeout = 2 * time.Minute

// Space is how large the file system at a path is, and how full, whoever fills it. A process of its own asks, which ends with ctx: a server
// that is gone answers nobody, and would hold up this one.
func Space(ctx context.Context, path string) (*statsapi.FsStats, error) {
	at := time.Now()
	out, err := tool(ctx, spaceTimeout, "stat", "-f", "-c", "%S %b %f %a %c %d", "--", path)
	if err != nil {
		return nil, fmt.Errorf("cannot measure the file system of %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	var size, blocks, free, available, inodes, inodesFree uint64
	if _, err := fmt.Sscan(string(out), &size, &blocks, &free, &available, &inodes, &inodesFree); err != nil {
		return nil, fmt.Errorf("cannot measure the file system of %s: stat says %q", path, out)
	}
	capacity, left, used, inodesUsed := blocks*size, available*size, (blocks-min(free, blocks))*size, inodes-min(inodesFree, inodes)
	return &statsapi.FsStats{Time: metav1.NewTime(at), CapacityBytes: &capacity, AvailableBytes: &left, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &inodesFree, InodesUsed: &inodesUsed}, nil
}

// sectorSize is what the kernel counts the sizes of devices in, whatever their own sectors are.
const sectorSize = 512

// Space is how large a device is. What is free of it nobody knows: that is zero, as with the kubelet.
func (d *Device) Space() (*statsapi.FsStats, error) {
	file := fmt.Sprintf("/sys/dev/block/%d:%d/size", d.Major, d.Minor)
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	size := sectors * sectorSize
	return &statsapi.FsStats{Time: metav1.Now(), CapacityBytes: &size, AvailableBytes: new(uint64), UsedBytes: new(uint64),
		Inodes: new(uint64), InodesFree: new(uint64), InodesUsed: new(uint64)}, nil
}
