package servers

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// hash is the same for a node and a text at all times, and spread evenly over nodes.
func hash(node, text string) uint64 {
	sum := sha256.Sum256([]byte(node + "\x00" + text))
	return binary.BigEndian.Uint64(sum[:8])
}

// order is in which a node prefers servers: another one for each node, so that nodes are spread over servers, and those of one that
// is gone over the others (rendezvous hashing). Each server is there once.
func order(node string, servers []string) []string {
	out := slices.Clone(servers)
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(hash(node, b), hash(node, a)), cmp.Compare(a, b))
	})
	return slices.Compact(out)
}

// Delay is how long a node waits of a time over which nodes spread what all of them do, below most.
func Delay(node string, most time.Duration) time.Duration {
	return time.Duration(float64(most) * float64(hash(node, "delay")>>11) / (1 << 53))
}

// choose is which server a node goes to that prefers servers in this order, by those that serve; current where that serves, or where
// none does.
func choose(current string, ordered []string, serves map[string]bool) string {
	if serves[current] {
		return current
	}
	for _, s := range ordered {
		if serves[s] {
			return s
		}
	}
	return current
}

// remember is what is known besides the listed servers, the newest first: those that were listed before, for where all that are listed
// now are gone.
func remember(listed, was, earlier []string) []string {
	var out []string
	for _, s := range slices.Concat(was, earlier) {
		if !slices.Contains(listed, s) && !slices.Contains(out, s) && len(out) < maxEarlier {
			out = append(out, s)
		}
	}
	return out
}
