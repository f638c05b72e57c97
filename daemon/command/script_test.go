package command

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"lockstep": func() { // as the program's main does it
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err := Run(ctx, os.Args[1:])
		os.Exit(Tell(os.Stderr, err))
	}})
}

// leakless runs tests, and wants every goroutine that they have started to have ended.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		return 1
	}
	return code
}

// TestScripts runs the command line, one story a file. The daemons in them listen on loopback, at ports of the kernel's
// choice; $TAKEN is one that is not free.
func TestScripts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	testscript.Run(t, testscript.Params{
		Deadline: time.Now().Add(2 * time.Minute), // of a daemon that should have refused to start
		Dir:      "testdata", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TAKEN", taken.Addr().String())
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"until": until},
	})
}

// until runs a program until its output matches a pattern: until PATTERN PROGRAM ARG…
func until(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARG…")
	}
	pattern := regexp.MustCompile(args[0])
	var out []byte
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(50 * time.Millisecond) {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
		out, _ = cmd.CombinedOutput() // it fails until its daemon answers
		if pattern.Match(out) {
			return
		}
	}
	ts.Fatalf("%q never printed %s; the last was\n%s", args[1:], args[0], out)
}
