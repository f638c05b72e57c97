package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/daemon/control"
	"lockstep/nodeagent/network"
)

// nodeAddress returns the address named by flag, or the machine's first global IPv4 address on a link that is up, or
// the isolated one where it has none, which the agent then puts on loopback.
func nodeAddress(flag string) (netip.Addr, error) {
	if flag != "" {
		addr, err := netip.ParseAddr(flag)
		if err != nil {
			return addr, fmt.Errorf("cannot use --node-ip %q: it is not an address", flag)
		}
		if addr = addr.Unmap(); addr != network.Isolated && !own(addr.AsSlice()) {
			return addr, fmt.Errorf("cannot use --node-ip %q: no link of this machine has this address", flag)
		}
		return addr, nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot look for the address of this machine: %w", err)
	}
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 || ours(link.Name) {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // the link went away since it was listed
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
				return prefix.Addr(), nil
			}
		}
	}
	return network.Isolated, nil
}

// ours tells the links that Lockstep and its pod network make.
func ours(link string) bool {
	return strings.HasPrefix(link, "lockstep") || strings.HasPrefix(link, "veth")
}

func nodeName(flag string) (string, error) {
	if flag != "" {
		if problems := validation.IsDNS1123Subdomain(flag); len(problems) > 0 {
			return "", fmt.Errorf("cannot use --node-name %q: %s", flag, strings.Join(problems, "; "))
		}
		return flag, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("cannot find this machine's name (--node-name gives one): %w", err)
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || name == "localhost" || name == "(none)" {
		return "", errors.New("this machine has no name of its own; give one with --node-name")
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", fmt.Errorf("a node cannot be called %q as this machine is (--node-name gives another name): %s", name,
			strings.Join(problems, "; "))
	}
	return name, nil
}

// needRoot refuses early what would fail half way.
func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("cannot %s: only root can (sudo lockstep …)", what)
	}
	return nil
}

// alone refuses to start what runs already with the same folders.
func alone(ctx context.Context, dirs dirFlags) error {
	attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if report, err := control.Dial(dirs.run).Report(attempt); err == nil {
		return fmt.Errorf("lockstep already runs on this machine (cluster %s): %s shows what it does; "+
			"stop it first to start it with other sources or flags",
			report.Cluster, dirs.client("status"))
	}
	return nil
}
