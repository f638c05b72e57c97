package volumes

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/beneath"
)

const (
	// nfsTimeout bounds one attempt to mount: a server that is there answers within seconds, and mount.nfs gives up after two
	// minutes by itself.
	nfsTimeout = 2 * time.Minute
	// nfsEnd is how long what mount has started may hold its output after it was killed.
	nfsEnd = time.Second
)

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
	bounded, cancel := context.WithTimeout(ctx, nfsTimeout)
	defer cancel()
	args := nfsArgs(dir, source, options)
	cmd := exec.CommandContext(bounded, "mount", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // with the helper that it starts, it can be ended
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = nfsEnd
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if errors.Is(bounded.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("timed out after %v", nfsTimeout)
	}
	failed := fmt.Errorf("mount failed: %w\nMounting command: mount\nMounting arguments: %s\nOutput: %s\n",
		err, strings.Join(args, " "), out)
	return errors.Join(failed, unmountBelow(context.WithoutCancel(ctx), dir))
}

// nfsArgs are mount's, as the kubelet has them.
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
