package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/internal/whole"
	"lockstep/nodeagent/dns"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/spec"
)

// sandbox is the record of a pod's namespaces, kept beside them; its zero
// value is no sandbox.
type sandbox struct {
	ID       string   `json:"id"`
	Boot     string   `json:"boot"` // of the machine, which ends every sandbox
	IPs      []string `json:"ips"`  // empty with the host's network
	Hostname string   `json:"hostname"`
	// Tier is the cgroup, below the node's, that the pod's own is in; empty: the node's, where those of earlier releases all are.
	Tier string `json:"tier,omitempty"`
	// Runtime is the type of containerd's runtime that has the pod's containers; empty: runc's.
	Runtime string `json:"runtime,omitempty"`
	// FirstID is the host's ID of user 0 of the pod's user namespace; 0: the pod has the host's users.
	FirstID uint32 `json:"firstId,omitempty"`
	// PausePID holds the PID namespace that containers share; 0 without one.
	PausePID int `json:"pausePid,omitempty"`
}

func (s sandbox) pidPath() string {
	if s.PausePID == 0 {
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/pid", s.PausePID)
}

// otherRuntime says that not runc has the pod's containers.
func (s sandbox) otherRuntime() bool {
	return s.Runtime != "" && !strings.HasPrefix(s.Runtime, "io.containerd.runc.")
}

// SandboxFile is the record's name in the sandbox's directory.
const SandboxFile = "sandbox.json"

// setupSandbox makes namespaces, cgroup, shared files and network. What an
// earlier attempt left is removed first.
func (p *Pod) setupSandbox(ctx context.Context) error {
	p.mu.Lock()
	object, again := p.wanted.Pod, len(p.instances) > 0
	p.mu.Unlock()
	if again {
		p.Event(corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	dir := p.dir()
	if _, err := os.Stat(dir); err == nil {
		if err := p.teardownSandbox(ctx); err != nil {
			return err
		}
	}
	p.change(func() { p.traces = true })
	name, err := p.node.hostname(object)
	if err != nil {
		return err
	}
	s := sandbox{ID: strconv.FormatInt(time.Now().UnixNano(), 36), Boot: register.BootID(), Hostname: name, Tier: spec.Tier(object)}
	p.change(func() { p.tier = s.Tier })
	if err := p.makeSandbox(ctx, object, dir, &s); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = whole.Write(filepath.Join(dir, SandboxFile), data)
	}
	if err != nil {
		return fmt.Errorf("cannot record sandbox: %w", err)
	}
	p.change(func() { p.sandbox = s })
	return nil
}

func (p *Pod) makeSandbox(ctx context.Context, object *corev1.Pod, dir string, s *sandbox) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("cannot make sandbox: %w", err)
	}
	runtimeType, err := p.node.runtimeOf(ctx, object)
	if err != nil {
		return err
	}
	s.Runtime = runtimeType
	if s.FirstID, err = p.node.usersOf(object); err != nil {
		return err
	}
	if s.FirstID != 0 && s.otherRuntime() {
		return fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces",
			*object.Spec.RuntimeClassName)
	}
	n := namespacesOf(object, *s)
	if err := p.node.Sandboxes.Pin(dir, n); err != nil {
		return err
	}
	if err := p.limit(object); err != nil {
		return err
	}
	if n.Net {
		// After a reboot without the API, other pods and nodes know it by its old address.
		who := network.Pod{UID: string(p.uid), Namespace: object.Namespace, Name: object.Name, Address: object.Status.PodIP}
		ips, err := p.node.Sandboxes.Add(ctx, who, network.NetPath(filepath.Join(dir, "ns")))
		if err != nil {
			return err
		}
		s.IPs = ips
	}
	// Some are of links, which are there by now.
	if err := p.node.Sandboxes.Tune(dir, spec.Sysctls(object)); err != nil {
		return err
	}
	if err := p.node.writeFiles(ctx, object, *s, true); err != nil {
		return err
	}
	if sharesPID(object) {
		pid, err := p.startPause(ctx, dir, *s)
		if err != nil {
			return err
		}
		s.PausePID = pid
	}
	return nil
}

// usersOf is the host's ID of user 0 of a pod that wants a user namespace of its own; 0 of others. What the errors begin with
// is the kubelet's.
func (n *Node) usersOf(o *corev1.Pod) (firstID uint32, err error) {
	if o.Spec.HostUsers == nil || *o.Spec.HostUsers {
		return 0, nil
	}
	if why := n.Facts().NoUserNamespaces; why != "" {
		return 0, fmt.Errorf("can't set `spec.hostUsers: false`, runtime does not support user namespaces: %s", why)
	}
	return n.Users.Take(o.UID)
}

// runtimeOf is the type of the runtime that a pod's RuntimeClass names; empty where it names none. The errors are the kubelet's and
// containerd's.
func (n *Node) runtimeOf(ctx context.Context, o *corev1.Pod) (string, error) {
	if o.Spec.RuntimeClassName == nil || *o.Spec.RuntimeClassName == "" {
		return "", nil
	}
	class, err := n.Cluster.RuntimeClass(ctx, *o.Spec.RuntimeClassName)
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("failed to get sandbox runtime: RuntimeClass %q not found", *o.Spec.RuntimeClassName)
	case err != nil:
		return "", fmt.Errorf("cannot read RuntimeClass %s: %w", *o.Spec.RuntimeClassName, err)
	}
	runtimeType, ok := n.Facts().Runtimes[class.Handler]
	if !ok {
		return "", fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", class.Handler)
	}
	return runtimeType, nil
}

// teardownSandbox undoes setupSandbox, whole or half done; it may be repeated.
func (p *Pod) teardownSandbox(ctx context.Context) error {
	object := p.Object()
	dir := p.dir()
	ns := filepath.Join(dir, "ns")
	err := p.stopPause(ctx)
	if !object.Spec.HostNetwork {
		who := network.Pod{UID: string(p.uid), Namespace: object.Namespace, Name: object.Name}
		err = errors.Join(err, p.node.Sandboxes.Remove(ctx, who, network.NetPath(ns)))
	}
	if err != nil {
		return err // the next attempt needs what is there
	}
	return p.node.Sandboxes.Unpin(dir)
}

// loadSandbox reads the record of a sandbox that still stands; the zero value
// says there is none. traces says that something of one is left.
func (p *Pod) loadSandbox() (s sandbox, traces bool) {
	dir := p.dir()
	if _, err := os.Stat(dir); err != nil {
		return sandbox{}, false
	}
	data, err := os.ReadFile(filepath.Join(dir, SandboxFile))
	if err != nil || json.Unmarshal(data, &s) != nil || s.Boot != register.BootID() {
		return sandbox{}, true
	}
	p.tier = s.Tier // also what runs of a broken sandbox is there
	if !p.node.Sandboxes.Pinned(dir, namespacesOf(p.wanted.Pod, s)) {
		return sandbox{}, true
	}
	if s.PausePID != 0 {
		if _, err := os.Stat(s.pidPath()); err != nil {
			return sandbox{}, true
		}
	}
	return s, true
}

func namespacesOf(o *corev1.Pod, s sandbox) network.Namespaces {
	return network.Namespaces{Net: !o.Spec.HostNetwork, UTS: !o.Spec.HostNetwork, IPC: !o.Spec.HostIPC, Hostname: s.Hostname,
		FirstID: s.FirstID}
}

func sharesPID(o *corev1.Pod) bool {
	return o.Spec.ShareProcessNamespace != nil && *o.Spec.ShareProcessNamespace && !o.Spec.HostPID
}

// podFiles are the files that are made for a pod, with the paths at which its
// containers see them.
func podFiles() map[string]string {
	return map[string]string{"hosts": "/etc/hosts", "hostname": "/etc/hostname", "resolv.conf": "/etc/resolv.conf"}
}

// writeFiles writes what the pod's containers see in /etc, for a new sandbox
// or where it is missing.
func (n *Node) writeFiles(ctx context.Context, o *corev1.Pod, s sandbox, anew bool) error {
	host, _ := os.ReadFile("/etc/resolv.conf") // a node without one has no upstream
	servers, domain := n.Names()
	return n.Volumes.WriteFiles(ctx, o.UID, map[string]string{
		"hosts":       n.hostsFile(o, s),
		"hostname":    s.Hostname + "\n",
		"resolv.conf": dns.ResolvConf(o, servers, domain, string(host)),
	}, anew)
}

// hostsFile is the pod's /etc/hosts as the kubelet writes it.
func (n *Node) hostsFile(o *corev1.Pod, s sandbox) string {
	var b strings.Builder
	if o.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(hostsOfNode("/etc/hosts"))
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, domain := n.namesOf(o)
		if domain != "" {
			name = name + "." + domain + "\t" + name
		}
		for _, ip := range s.IPs {
			fmt.Fprintf(&b, "%s\t%s\n", ip, name)
		}
	}
	if len(o.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, h := range o.Spec.HostAliases {
			if _, err := netip.ParseAddr(h.IP); err == nil {
				fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, "\t"))
			}
		}
	}
	return b.String()
}

// maxNodeHosts bounds what a pod on the host's network gets of the node's hosts
// file, far below what a pod's own file may take.
const maxNodeHosts = 1 << 20

// hostsOfNode are the node's own entries, whole lines of them; a node may have none.
func hostsOfNode(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNodeHosts))
	if err != nil {
		return ""
	}
	if len(data) == maxNodeHosts {
		data = data[:bytes.LastIndexByte(data, '\n')+1]
	}
	return string(data)
}
