package runtime

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/asroot"
	"lockstep/nodeagent/process"
)

// someTasks has a task of one container.
type someTasks struct {
	tasks.UnimplementedTasksServer
	id string
}

func (s someTasks) Get(_ context.Context, r *tasks.GetRequest) (*tasks.GetResponse, error) {
	if r.ContainerID == s.id {
		return &tasks.GetResponse{Process: &task.Process{ID: s.id}}, nil
	}
	return nil, status.Error(codes.NotFound, "no such task")
}

// TestEndShim: a shim that listens and has no process is ended, one that has a process is left and told, and what only
// listens is no shim.
func TestEndShim(t *testing.T) {
	for name, want := range map[string]string{"containerd-shim-test": "", "containerd-shim-busy": "is its child", "other": ""} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		file, err := listener.File()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if name == "containerd-shim-busy" {
			cmd = exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
		}
		cmd.Args[0], cmd.ExtraFiles = name, []*os.File{file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		file.Close()
		listener.Close()
		if name == "containerd-shim-busy" {
			if _, err := out.Read(make([]byte, 1)); err != nil { // its child is there
				t.Fatal(err)
			}
		}
		err = endShim(t.Context(), socket)
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if alive := process.Alive(cmd.Process.Pid); alive == (name == "containerd-shim-test") {
			t.Errorf("%s: alive is %t", name, alive)
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

// TestDropRemains: what a killed shim left goes, with what is mounted in it and its working directory, wherever containerd's
// folders are; the files under a mount stay, and so does all of a container that has a task.
func TestDropRemains(t *testing.T) {
	asroot.Test(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	serveWith(t, socket, func(s *grpc.Server) { tasks.RegisterTasksServer(s, someTasks{id: "alive"}) })
	layer := filepath.Join(dir, "layer")
	file := filepath.Join(layer, "file")
	if err := os.Mkdir(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{"by its option", "by a mount"} {
		state := filepath.Join(dir, known, "state")
		var paths []string
		leave := func(id string) {
			bundle, work := filepath.Join(state, taskFolder, Namespace, id), filepath.Join(dir, known, "root", taskFolder, Namespace, id)
			// runc makes what it mounts on, also where the root file system has gone meanwhile.
			for _, d := range []string{filepath.Join(bundle, "rootfs", "proc"), work} {
				if err := os.MkdirAll(d, 0o711); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(work, filepath.Join(bundle, "work")); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(layer, filepath.Join(bundle, "rootfs"), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH) })
			paths = append(paths, bundle, work)
		}
		leave("gone")
		leave("alive")
		o := Options{Address: socket}
		if known == "by its option" {
			o.State = state
		}
		r, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range 2 {
			if err := r.DropRemains(t.Context(), []string{"gone", "other"}); err != nil {
				t.Errorf("%s: %v", known, err)
			}
		}
		if err := r.DropRemains(t.Context(), []string{"alive"}); err == nil || !strings.Contains(err.Error(), "has a task") {
			t.Errorf("%s: of one that has a task: %v", known, err)
		}
		for _, path := range paths {
			if _, err := os.Lstat(path); (err == nil) != strings.HasSuffix(path, "alive") {
				t.Errorf("%s: %s: %v", known, path, err)
			}
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%s: what was mounted: %v", known, err)
		}
	}
}
