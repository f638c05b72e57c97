package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a network namespace that lives as long as it is open.
type namespace struct{ handle netns.NsHandle }

func newNamespace() (*namespace, error) {
	type made struct {
		handle netns.NsHandle
		err    error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		handle, err := netns.New()
		done <- made{handle, err}
	}()
	m := <-done
	if m.err != nil {
		return nil, fmt.Errorf("cannot make a network namespace: %w", m.err)
	}
	n := &namespace{m.handle}
	_, err := n.do(context.Background(), func(context.Context) (float64, error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return 0, err
		}
		return 0, netlink.LinkSetUp(lo)
	})
	return n, err
}

// do measures on a thread in the namespace; programs that are started from it are in it too.
func (n *namespace) do(ctx context.Context, f measurement) (took float64, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(n.handle); err == nil {
			took, err = f(ctx)
		}
	}()
	<-done
	return took, err
}

func (n *namespace) close() { _ = n.handle.Close() }
