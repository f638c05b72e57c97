package lab

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a slow link is, either way. A kernel with netem delays and loses by itself. Without, a token bucket lets so little through
// that packets wait for each other, and those that the queue has no room for are lost: a link with little on it is hardly slower then.
const (
	linkLatency = 100_000 // µs
	linkLoss    = 2       // %
	linkRate    = 250_000 // bytes a second, 2 Mbit/s
	linkQueue   = 50_000  // bytes: 200 ms at that rate
	linkBurst   = 5_000   // bytes that go at once
)

// Slow makes the host's link slow, and lossy, in both directions, and returns by what. Doing it again changes nothing; Heal and a
// reboot end it.
func (l *Lab) Slow(h *Host) (by string, err error) {
	err = l.change(func() error {
		return l.bothEnds(h, func(at *netlink.Handle, link netlink.Link) (err error) {
			by, err = slow(at, link)
			return err
		})
	})
	return by, err
}

// slow makes one end of a link slow.
func slow(at *netlink.Handle, link netlink.Link) (by string, err error) {
	if err := quick(at, link); err != nil { // one kind of queue does not replace another
		return "", err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	err = at.QdiscAdd(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: linkLatency, Loss: linkLoss}))
	if err == nil {
		return fmt.Sprintf("netem: %d ms later, %d %% lost, each way", linkLatency/1000, linkLoss), nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return "", err
	}
	bucket := &netlink.Tbf{QdiscAttrs: attrs, Rate: linkRate, Limit: linkQueue, Buffer: netlink.Xmittime(linkRate, linkBurst)}
	return fmt.Sprintf("a token bucket, as this kernel has no netem: %d kB/s each way, what waits longer than %d ms is lost",
		linkRate/1000, linkQueue*1000/linkRate), at.QdiscAdd(bucket)
}

// quicken ends what Slow began.
func (l *Lab) quicken(h *Host) error { return l.bothEnds(h, quick) }

// quick ends what slow began at one end of a link.
func quick(at *netlink.Handle, link netlink.Link) error {
	queues, err := at.QdiscList(link)
	for _, q := range queues {
		if isSlow(q) {
			err = errors.Join(err, at.QdiscDel(q))
		}
	}
	return err
}

func isSlow(q netlink.Qdisc) bool { return q.Type() == "netem" || q.Type() == "tbf" }

// IsSlow says whether the host's link is slow.
func (l *Lab) IsSlow(h *Host) (is bool, err error) {
	err = l.bothEnds(h, func(at *netlink.Handle, link netlink.Link) error {
		queues, err := at.QdiscList(link)
		is = is || slices.ContainsFunc(queues, isSlow)
		return err
	})
	return is, err
}

// bothEnds calls f for the ends of the host's link.
func (l *Lab) bothEnds(h *Host, f func(at *netlink.Handle, link netlink.Link) error) error {
	err := l.atSwitch(func(at *netlink.Handle) error {
		port, err := at.LinkByName(portName(h))
		if err != nil {
			return err
		}
		return f(at, port)
	})
	if err == nil {
		err = h.Do(func() error {
			at, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			defer at.Close()
			link, err := at.LinkByName("eth0")
			if err != nil {
				return err
			}
			return f(at, link)
		})
	}
	if err != nil {
		return fmt.Errorf("cannot change the link of host %s: %w", h.Name, err)
	}
	return nil
}
