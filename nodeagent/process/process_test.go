package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestKill: what is killed is what was meant, and nothing else is.
func TestKill(t *testing.T) {
	leader := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	leader.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := leader.StdoutPipe()
	if err == nil {
		err = leader.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	if Session(child) != leader.Process.Pid || Parent(child) != leader.Process.Pid || !Alive(child) || !slices.Contains(All(), child) {
		t.Errorf("session %d, parent %d, alive %t", Session(child), Parent(child), Alive(child))
	}
	for deadline := time.Now().Add(10 * time.Second); !slices.Equal(Arguments(child), []string{"sleep", "1000"}); {
		time.Sleep(time.Millisecond)
		if time.Now().After(deadline) {
			t.Fatalf("arguments %q", Arguments(child))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := Wait(ctx, child); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v while it lives", err)
	}
	if Kill(child, func() bool { return Session(child) == os.Getpid() }) {
		t.Error("killed though it is another's")
	}
	if !Kill(child, func() bool { return Session(child) == leader.Process.Pid }) {
		t.Error("not killed")
	}
	if err := Wait(t.Context(), child); err != nil {
		t.Errorf("Wait = %v", err)
	}
	if err := leader.Wait(); err != nil { // it waits for the child alone
		t.Error(err)
	}
	if Kill(child, func() bool { return true }) || Alive(child) || Arguments(child) != nil {
		t.Error("it is still there")
	}
	if err := Wait(t.Context(), child); err != nil {
		t.Errorf("Wait = %v for one that is absent", err)
	}
}
