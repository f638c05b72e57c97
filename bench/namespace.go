package main

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"lockstep/internal/thread"
)

// namespace is a network namespace that lives as long as it is open.
type namespace struct{ handle netns.NsHandle }

func newNamespace() (*namespace, error) {
	n := &namespace{}
	if err := thread.Own(func() (err error) { n.handle, err = netns.New(); return err }); err != nil {
		return nil, fmt.Errorf("cannot make a network namespace: %w", err)
	}
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
	err = thread.Own(func() error {
		if err := netns.Set(n.handle); err != nil {
			return err
		}
		took, err = f(ctx)
		return err
	})
	return took, err
}

func (n *namespace) close() { _ = n.handle.Close() }
