package volumes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/beneath"
)

// nfsTimeout bounds one attempt to mount: a server that is there answers within seconds, and mount.nfs gives up after two minutes by
// itself.
const nfsTimeout = 2 * time.Minute

// mountNFS mounts a directory of an NFS server, unless that is done. The mount outlives the agent; a server that does not
// answer holds up this pod alone.
func mountNFS(ctx context.Context, dir string, source corev1.NFSVolumeSource, options []string) error {
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	if err := makeDir(ctx, dir, beneath.Attr{Mode: 0o750}); err != nil {
		return err
	}
	args := nfsArgs(dir, source, options)
	// A server is whatever a pod says: as an option it could name a table of mounts that the pod has written.
	out, err := tool(ctx, nfsTimeout, "mount", slices.Insert(slices.Clone(args), len(args)-2, "--")...)
	if err == nil {
		return nil
	}
	return errors.Join(mountFailed(err, args, out), unmountBelow(context.WithoutCancel(ctx), dir))
}

// nfsArgs are mount's, as the kubelet has them; the last two are what is mounted, and where.
func nfsArgs(dir string, source corev1.NFSVolumeSource, options []string) []string {
	args := []string{"-t", "nfs"}
	all := append([]string(nil), options...)
	if source.ReadOnly {
		all = append(all, "ro")
	}
	if len(all) > 0 {
		args = append(args, "-o", strings.Join(all, ","))
	}
	return append(args, source.Server+":"+source.Path, dir)
}
