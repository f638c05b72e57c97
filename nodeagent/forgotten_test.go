package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/dns/names"
	"lockstep/nodeagent/logs/keeper"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/process"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/runtime"
)

// nodeEvent waits for an event about the node.
func (l *lab) nodeEvent(reason string) {
	l.t.Helper()
	l.eventually("event "+reason+" of the node", 20*time.Second, func() error {
		for _, e := range l.events(l.opts.NodeName) {
			if e.Reason == reason {
				return nil
			}
		}
		return errors.New("none")
	})
}

// forget makes containerd forget its tasks, which run on.
func (l *lab) forget() {
	l.t.Helper()
	l.killContainerd(syscall.SIGKILL)
	state := filepath.Join(l.dir, "c", "state")
	if err := unmountBelow(state); err != nil {
		l.t.Fatal(err)
	}
	if err := os.RemoveAll(state); err != nil {
		l.t.Fatal(err)
	}
	l.startContainerd()
}

// TestForgotten has containers that containerd has forgotten, and shims that are
// killed: nothing of them is left, nor meets its successor.
func TestForgotten(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	opts, _ := l.opts.withDefaults()
	l.bind("one", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{shell("a", forever), shell("b", forever)},
	})
	p := l.running("one")
	socket := func() error {
		names := []string{string(p.UID)}
		for _, c := range l.list() {
			names = append(names, c.ID)
		}
		for _, name := range names {
			if _, err := os.Lstat(runtime.ShimSocket(l.opts.Containerd, name)); err == nil {
				return nil
			}
		}
		return errors.New("no socket")
	}
	if err := socket(); err != nil {
		t.Fatalf("the shim's socket is named otherwise: %v", err)
	}
	restarts := func(want int32) {
		t.Helper()
		l.eventually(fmt.Sprintf("%d restarts", want), 60*time.Second, func() error {
			s := l.pod("one").Status
			for _, c := range s.ContainerStatuses {
				if c.State.Running == nil || c.RestartCount < want {
					return fmt.Errorf("status %+v", s.ContainerStatuses)
				}
			}
			return nil
		})
	}
	gone := func(pids map[string]uint32) {
		t.Helper()
		for name, pid := range pids {
			l.eventually(name+" ended", 20*time.Second, func() error {
				if process.Alive(int(pid)) && cgroup.Within(int(pid), machine.Cgroup(opts.NodeName)) {
					return fmt.Errorf("process %d lives", pid)
				}
				return nil
			})
		}
	}

	before := l.pids()
	l.halt()
	l.forget()
	l.start()
	restarts(1)
	gone(before)
	l.nodeEvent("RemovedForgottenContainer")
	if n := shimsOf(t, l); n != 1 {
		t.Errorf("%d shims", n)
	}

	// While the agent runs it finds out by looking.
	before = l.pids()
	l.forget()
	restarts(2)
	gone(before)
	if n := shimsOf(t, l); n != 1 {
		t.Errorf("%d shims", n)
	}

	killShims(t, l)
	restarts(3)

	before = l.pids()
	l.halt()
	l.forget()
	if err := Reset(t.Context(), l.opts); err != nil {
		t.Errorf("Reset = %v", err)
	}
	gone(before)
	if n := shimsOf(t, l); n != 0 {
		t.Errorf("%d shims after the reset", n)
	}
	if err := socket(); err == nil {
		t.Error("a socket is left")
	}
	if left := cgroup.Processes(machine.Cgroup(opts.NodeName)); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// TestWhatIsOursComesBack kills what the agent started: containers do not notice.
func TestWhatIsOursComesBack(t *testing.T) {
	l := newLab(t)
	l.opts.Containerd, l.opts.answerEvery = Managed, 5*time.Second
	l.start()
	l.ready()
	opts, _ := l.opts.withDefaults()
	l.bind("keep", corev1.PodSpec{Containers: []corev1.Container{
		shell("main", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo line $i; sleep 1 & wait; done"),
	}})
	p := l.running("keep")
	comesBack := func(what string, sig syscall.Signal, find func() []int) {
		t.Helper()
		old := find()
		if len(old) != 1 || old[0] == 0 {
			t.Fatalf("%s: %v", what, old)
		}
		if err := syscall.Kill(old[0], sig); err != nil {
			t.Fatal(err)
		}
		l.eventually(what+" is back", 60*time.Second, func() error {
			if now := find(); len(now) != 1 || now[0] == 0 || slices.Equal(now, old) {
				return fmt.Errorf("processes %v", now)
			}
			return nil
		})
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} { // one that is stopped hangs
		comesBack("containerd", sig, func() []int { return []int{findContainerd(opts)} })
		comesBack("log keeper", syscall.SIGKILL, func() []int { return companions(opts.RunDir, keeper.Command) })
	}
	l.nodeEvent("ContainerdRestarted")
	l.nodeEvent("LogKeeperRestarted")
	lines := strings.Count(l.log(p, "main", 0), "line")
	l.eventually("it prints on", 20*time.Second, func() error {
		if strings.Count(l.log(p, "main", 0), "line") == lines {
			return errors.New("nothing")
		}
		return nil
	})
	// The new containerd does what it is asked.
	l.bind("next", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("next")
	if s := l.running("keep").Status.ContainerStatuses[0]; s.RestartCount != 0 {
		t.Errorf("restarted: %+v", s)
	}
	l.halt()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Reset(ctx, l.opts); err != nil {
		t.Errorf("Reset = %v", err)
	}
	if pid := findContainerd(opts); pid != 0 {
		t.Errorf("containerd %d is left", pid)
	}
}

// TestRefused has an agent whose token is refused: it ends with one line, and with what it had started. One that has joined
// ends without that.
func TestRefused(t *testing.T) {
	l := newLab(t)
	token := l.opts.Token
	l.opts.Containerd, l.opts.Token = Managed, token[:strings.LastIndex(token, ".")+1]+"wrong"
	opts, err := l.opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	left := func() []int {
		pids := companions(opts.RunDir, keeper.Command, names.Command)
		if pid := findContainerd(opts); pid != 0 {
			pids = append(pids, pid)
		}
		return pids
	}
	for range 2 {
		a, err := New(l.opts)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		err = a.Run(ctx)
		cancel()
		if !errors.Is(err, register.ErrRefused) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Run = %v", err)
		}
		if pids := left(); len(pids) > 0 {
			t.Errorf("left: %v", pids)
		}
	}
	l.opts.Token = token
	l.start()
	l.ready()
	l.halt()
	if len(left()) < 2 {
		t.Errorf("only %v run on after the end of an agent that has joined", left())
	}
}
