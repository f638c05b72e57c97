package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A packet is compared with a rule after the other, so the way to one of many keys (addresses, or
// ports) must be short. Keys are spread over chains that each stand for a prefix of the key: a
// chain either lists the rules of a few keys, or has a jump for each part of its prefix in use.

const (
	// bucket is how many keys one chain lists before it is split. Lists are cheap to load (a
	// chain costs as much as several rules) and 8 keys are compared as fast as two levels.
	bucket = 8
	// step is the number of bits of one split: 2 bits are up to four jumps a level, the fewest
	// comparisons for a given number of keys (2.5 for each 2 bits).
	step = 2
)

// leaf is one key of a tree with the rules of that key, in order, each complete with its match.
type leaf struct {
	key   string // big-endian bytes, all keys of a tree of one length
	rules []string
}

// form says how a tree's prefixes are written.
type form struct {
	table string
	// chain names the chain of a prefix; distinct prefixes have distinct names.
	chain func(prefix string, bits int) string
	// match is the rule's match for a prefix, with a space after it; empty for the empty prefix.
	match func(prefix string, bits int) string
}

// grow returns the rules that lead to all leaves, for the chain above the tree, and the tree's
// chains. Leaves may come in any order; leaves with one key are all kept, their rules in the
// order of their text.
func grow(leaves []leaf, f form) (root []string, chains []*Chain) {
	leaves = slices.Clone(leaves)
	slices.SortFunc(leaves, func(a, b leaf) int {
		return cmp.Or(cmp.Compare(a.key, b.key), slices.Compare(a.rules, b.rules))
	})
	root = f.branch(leaves, &chains)
	return root, chains
}

// branch returns the rules of sorted leaves for the chain above them: their own rules if they are
// few, else a jump to the chain of their common prefix.
func (f form) branch(leaves []leaf, chains *[]*Chain) []string {
	if len(leaves) == 0 {
		return nil
	}
	prefix, bits := common(leaves[0].key, leaves[len(leaves)-1].key)
	chain := &Chain{ChainID: ChainID{f.table, f.chain(prefix, bits)}}
	switch {
	case bits == 8*len(prefix) && len(leaves) == 1:
		return leaves[0].rules
	case bits == 8*len(prefix) || len(leaves) <= bucket:
		for _, l := range leaves {
			chain.Rules = append(chain.Rules, l.rules...)
		}
	default:
		for len(leaves) > 0 {
			part := digit(leaves[0].key, bits)
			n := 1
			for n < len(leaves) && digit(leaves[n].key, bits) == part {
				n++
			}
			chain.Rules = append(chain.Rules, f.branch(leaves[:n], chains)...)
			leaves = leaves[n:]
		}
	}
	*chains = append(*chains, chain)
	return []string{f.match(prefix, bits) + "-j " + chain.Name}
}

// common is the longest prefix that two keys share: its bytes, zero after it, and its bits.
func common(a, b string) (string, int) {
	out := make([]byte, len(a))
	for i := range len(a) {
		for bit := range 8 {
			mask := byte(0x80) >> bit
			if a[i]&mask != b[i]&mask {
				return string(out), 8*i + bit
			}
			out[i] |= a[i] & mask
		}
	}
	return string(out), 8 * len(a)
}

// digit is the key's next step bits after the given ones.
func digit(key string, bits int) int {
	d := 0
	for i := bits; i < bits+step; i++ {
		d <<= 1
		if i < 8*len(key) && key[i/8]&(0x80>>(i%8)) != 0 {
			d |= 1
		}
	}
	return d
}

// destinations is the tree of service addresses.
func destinations() form { return addressForm("IP", "-d ") }

// sources is the tree of this node's pods that reach themselves.
func sources() form { return addressForm("SELF", "-s ") }

func addressForm(name, option string) form {
	return form{
		table: NAT,
		chain: func(prefix string, bits int) string {
			if len(prefix) > 4 { // 32 hexadecimal digits do not fit a chain's name
				long := Prefix + name + "-" + hash(fmt.Sprintf("%x/%d", prefix, bits))
				return long[:min(len(long), maxName)]
			}
			return fmt.Sprintf("%s%s-%X-%d", Prefix, name, prefix, bits)
		},
		match: func(prefix string, bits int) string {
			if bits == 0 {
				return ""
			}
			a, _ := netip.AddrFromSlice([]byte(prefix))
			return option + netip.PrefixFrom(a, bits).String() + " "
		},
	}
}

func addressKey(a netip.Addr) string { return string(a.AsSlice()) }

// portForm is the tree of one protocol's node ports.
func portForm(table string, name corev1.Protocol) form {
	protocol := strings.ToLower(string(name))
	return form{
		table: table,
		chain: func(prefix string, bits int) string {
			return fmt.Sprintf("%sPORT-%s-%X-%d", Prefix, name, prefix, bits)
		},
		match: func(prefix string, bits int) string {
			first := int(prefix[0])<<8 | int(prefix[1])
			last := first | (1<<(16-bits) - 1)
			if first == last {
				return fmt.Sprintf("-p %s -m %s --dport %d ", protocol, protocol, first)
			}
			return fmt.Sprintf("-p %s -m %s --dport %d:%d ", protocol, protocol, first, last)
		},
	}
}

func portKey(port uint16) string { return string([]byte{byte(port >> 8), byte(port)}) }
