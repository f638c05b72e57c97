package names

import (
	"slices"
	"strings"
)

// NameserversMost is how many servers resolvers use (resolv.conf(5)).
const NameserversMost = 3

// Resolv is a resolv.conf(5).
type Resolv struct{ Nameservers, Searches, Options []string }

// ParseResolv reads what resolvers read: of search and domain the last line counts, of options all.
func ParseResolv(text string) Resolv {
	var r Resolv
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.Nameservers = append(r.Nameservers, fields[1])
		case "search":
			r.Searches = nil
			for _, s := range fields[1:] {
				if s = strings.TrimSuffix(s, "."); s != "" {
					r.Searches = append(r.Searches, s)
				}
			}
		case "domain":
			r.Searches = []string{strings.TrimSuffix(fields[1], ".")}
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// FirstFew keeps the first n distinct items.
func FirstFew(list []string, n int) []string {
	var out []string
	for _, s := range list {
		if len(out) < n && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
