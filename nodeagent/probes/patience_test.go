package probes

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, p := newPatience(t.Context(), 2*time.Second)
		time.Sleep(time.Hour) // nothing has begun
		if ctx.Err() != nil {
			t.Error("it ended before it began")
		}
		began := time.Now()
		p.begin()
		p.begin()
		<-ctx.Done()
		if took := time.Since(began); took != 2*time.Second || !timedOut(ctx) {
			t.Errorf("it ended after %s: %v", took, context.Cause(ctx))
		}
		p.stop()
		ctx, p = newPatience(t.Context(), time.Second)
		p.begin()
		p.stop()
		time.Sleep(time.Hour)
		if timedOut(ctx) {
			t.Error("one that was stopped says that time was over")
		}
	})
}

// TestSlowAgent has a process that probes healthy servers, at once and for a second at most, and that is stopped for longer
// than that again and again: none of its attempts fails. What it tries is not what is slow.
func TestSlowAgent(t *testing.T) {
	if address := os.Getenv("PROBE_WHAT"); address != "" {
		probeOnAndOn(strings.Fields(address))
		return
	}
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) }))
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		_ = rpc.Serve(l)
	}()
	defer func() {
		rpc.Stop()
		<-serving
	}()

	child := exec.Command(os.Args[0], "-test.run=^TestSlowAgent$", "-test.timeout=2m")
	child.Env = append(os.Environ(), "PROBE_WHAT="+web.Listener.Addr().String()+" "+l.Addr().String())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	paused := make(chan struct{})
	go func() { // it runs for less than a sixth of the time
		defer close(paused)
		time.Sleep(500 * time.Millisecond)
		for range 6 {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			time.Sleep(1300 * time.Millisecond)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			time.Sleep(200 * time.Millisecond)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}()
	asked, failed := 0, 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch text := lines.Text(); {
		case strings.HasPrefix(text, "ok"):
			asked++
		case strings.HasPrefix(text, "failed"):
			failed++
			t.Error(text)
		}
	}
	<-paused
	_ = child.Wait() // ended by the signal
	t.Logf("%d attempts, %d failed, of a process that was stopped 6 times for 1.3 times the time-out", asked, failed)
	if asked < 20 {
		t.Errorf("%d attempts, of which one or the other met each pause", asked)
	}
}

// probeOnAndOn tells of each attempt, until the process is ended.
func probeOnAndOn(addresses []string) {
	ask := newRunner(nil)
	for i := 0; ; i++ {
		host, port, _ := net.SplitHostPort(addresses[i%2])
		number := intstr.Parse(port)
		spec := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: number, Path: "/"}}}
		if i%2 == 1 {
			spec.ProbeHandler = corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: number.IntVal}}
		}
		result, output, err := ask(context.Background(), target{spec: spec, container: &corev1.Container{}, ip: host, timeout: time.Second})
		if err != nil || result != "success" {
			fmt.Println("failed", result, strings.ReplaceAll(output, "\n", " "), err)
			continue
		}
		fmt.Println("ok")
	}
}
