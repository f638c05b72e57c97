package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/internal/sleep"
	"lockstep/kinds"
)

// forwardArg is the hidden argument with which lockstep-lab runs again to pass connections on to an address. Its
// listener is file descriptor 3, made on the machine; the process itself is on the host.
const forwardArg = "_forward"

// RunForward accepts connections at the listener it was handed and passes each on to the address.
func RunForward(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("cannot forward: want ADDRESS, got %d arguments", len(args))
	}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("cannot forward to %s: %w", args[0], err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("cannot forward to %s: %w", args[0], err)
		}
		go pass(conn, args[0])
	}
}

func pass(from net.Conn, addr string) {
	defer func() { _ = from.Close() }()
	to, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(from, to)
}

// forwardAPI makes the first server's API and status page reachable on the machine's loopback, at the same addresses as
// before where it was already.
func (l *Lab) forwardAPI() error {
	for what, addr := range map[string]string{"api": "127.0.0.1:6443", "status": "127.0.0.1:7070"} {
		if err := l.forward(l.firstServer(), what, addr); err != nil {
			return err
		}
	}
	return l.save()
}

func (l *Lab) forward(h *Host, what, addr string) error {
	at := l.state.Forward[what]
	if at == "" {
		at = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return fmt.Errorf("cannot forward to %s on %s: %w", what, h.Name, err)
	}
	defer func() { _ = listener.Close() }()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return fmt.Errorf("cannot forward to %s on %s: %w", what, h.Name, err)
	}
	defer func() { _ = file.Close() }()
	cmd := h.Command(context.Background(), l.state.Options.Self, forwardArg, addr)
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot forward to %s on %s: %w", what, h.Name, err)
	}
	reap(cmd)
	l.state.Forward[what] = listener.Addr().String()
	return nil
}

// Kubeconfig returns a viewer's kubeconfig, or a user's that flags of lockstep kubeconfig name. Outside, its server is a forwarded
// address on the machine's loopback; else the server's own address, for use on the lab's hosts.
func (l *Lab) Kubeconfig(ctx context.Context, outside bool, flags ...string) ([]byte, error) {
	s := l.Server()
	args := append([]string{"kubeconfig", "--data-dir", s.DataDir()}, flags...)
	raw, err := s.Command(ctx, l.state.Options.Lockstep, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot make a kubeconfig on %s: %w", s.Name, withStderr(err))
	}
	config, err := clientcmd.Load(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kubeconfig of %s: %w", s.Name, err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server = "https://" + s.Addr + ":6443"
		if outside {
			cluster.Server = "https://" + l.Forwarded("api")
		}
	}
	return clientcmd.Write(*config)
}

// Client returns a viewer's client of the lab's API that works from the machine.
func (l *Lab) Client(ctx context.Context) (*kubernetes.Clientset, error) {
	raw, err := l.Kubeconfig(ctx, true)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read the lab's kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 200, 400 // tests look often; the server bounds its own load
	return kubernetes.NewForConfig(config)
}

// waitReady returns once every agent's node is Ready.
func (l *Lab) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	client, err := l.Client(ctx)
	if err != nil {
		return err
	}
	want := len(l.Agents())
	for {
		ready := 0
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			for i := range nodes.Items {
				if kinds.NodeReady(&nodes.Items[i]) {
					ready++
				}
			}
		}
		if err == nil && ready >= want {
			return nil
		}
		if !sleep.For(ctx, 50*time.Millisecond) {
			return errors.Join(fmt.Errorf("cannot see the lab's nodes ready: %d of %d are", ready, want), err)
		}
	}
}
