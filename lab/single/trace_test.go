package single

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// snapshot is everything of a machine that Lockstep changes while it runs, as sorted or ordered lines.
type snapshot map[string][]string

func (m *machine) snapshot() snapshot {
	m.t.Helper()
	s := snapshot{
		"links":        lines(m.run("ip", "-o", "link"), `^\d+: `),
		"addresses":    lines(m.run("ip", "-o", "address"), `^\d+: `),
		"routes":       lines(m.run("ip", "route", "show", "table", "all")),
		"policies":     lines(m.run("ip", "rule")),
		"neighbours":   lines(m.run("ip", "neighbour", "show", "nud", "permanent")),
		"rules":        rules(m.run("iptables-save")),
		"rules for v6": rules(m.run("ip6tables-save")),
		"mounts":       m.mounts(),
		"cgroups":      m.cgroups(),
		"processes":    m.processes(),
		"settings":     m.settings(),
		"files":        m.files(),
	}
	if _, err := exec.LookPath("nft"); err == nil {
		s["nft"] = nft(m.run("nft", "list", "ruleset"))
	}
	if _, err := os.Stat(m.path(systemSocket)); err == nil {
		s["containerd"] = m.contents()
	}
	return s
}

func (m *machine) compare(before, after snapshot) {
	m.t.Helper()
	if diff := cmp.Diff(before, after); diff != "" {
		m.t.Errorf("not as before (-before +after):\n%s", diff)
	}
}

// lines splits an output and cuts what the patterns match from each line.
func lines(out string, cut ...string) []string {
	var all []string
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n ")
		for _, c := range cut {
			line = regexp.MustCompile(c).ReplaceAllString(line, "")
		}
		all = append(all, line)
	}
	return all
}

// rules are those of a listing, with chains that are not built in. Built-in chains come with the first look at a table.
func rules(out string) []string {
	var kept []string
	for _, line := range lines(out, ` \[\d+:\d+\]$`) {
		builtIn := regexp.MustCompile(`^(#|\*|COMMIT|:\w+ ACCEPT$)`)
		if !builtIn.MatchString(line) {
			kept = append(kept, line)
		}
	}
	return kept
}

// nft is a rule set without tables that only have the empty chains of iptables' built-in ones.
func nft(out string) []string {
	var kept []string
	frame := regexp.MustCompile(`^(table ip6? \w+ \{|chain (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) \{|` +
		`type \w+ hook \w+ priority .*; policy accept;|\}|)$`)
	for _, line := range lines(out) {
		if line = strings.TrimSpace(line); !frame.MatchString(line) {
			kept = append(kept, line)
		}
	}
	return kept
}

func (m *machine) mounts() []string {
	raw, err := os.ReadFile(filepath.Join("/proc", m.pid, "mounts"))
	if err != nil {
		m.t.Fatal(err)
	}
	return lines(string(raw))
}

// cgroups are those that carry the node's name. The ones above them may hold other nodes of the real machine.
func (m *machine) cgroups() []string {
	var out []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil { // one that ended meanwhile
			return nil //nolint:nilerr // as said
		}
		if d.IsDir() && strings.Contains(path, m.node) {
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// settings are the network's sysctls, without those of links that come and go, and without counters.
func (m *machine) settings() []string {
	var out []string
	raw, err := m.command("grep", "-rs", ".", "/proc/sys/net").Output() // exit code 2: some can only be written
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || len(raw) == 0 {
		m.t.Fatalf("cannot read settings: %v", err)
	}
	counter := regexp.MustCompile(
		`^/proc/sys/net/(netfilter/nf_conntrack_(count|buckets|max)|nf_conntrack_max|ip.*/(conf|neigh)/(veth|lockstep))`)
	for _, line := range lines(string(raw)) {
		if !counter.MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

// ofContainerd are files of the system's containerd: its database, and folders that its own shims make.
var ofContainerd = regexp.MustCompile(`^/(var/lib/containerd|run/containerd)(/|$)`)

func (m *machine) files() []string {
	var out []string
	for _, top := range []string{"/run", "/var/lib", "/var/log"} {
		root := m.path(top)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			path = top + strings.TrimPrefix(path, root)
			_, system := os.Stat(m.path(systemSocket))
			if system == nil && ofContainerd.MatchString(path) {
				return nil
			}
			out = append(out, path)
			return nil
		})
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return out
}

// contents is what the system's containerd has, in all its namespaces.
func (m *machine) contents() []string {
	m.t.Helper()
	out := lines(m.run("ctr", "namespaces", "list", "--quiet"))
	for _, ns := range out {
		for _, what := range [][]string{
			{"containers", "list", "--quiet"}, {"images", "list", "--quiet"}, {"content", "list", "--quiet"},
			{"snapshots", "list"}, {"leases", "list"}, {"tasks", "list"},
		} {
			out = append(out, lines(m.run("ctr", append([]string{"--namespace", ns}, what...)...))...)
		}
	}
	return out
}
