package proxy

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// generation is the number of the last transaction of nf_tables in this network namespace,
// whoever made it. (linux/netfilter/nf_tables.h, NFT_MSG_GETGEN)
func generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot read the nf_tables generation: %w", err)
	}
	for _, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attributes, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("cannot read the nf_tables generation: %w", err)
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("cannot read the nf_tables generation: the answer has none")
}

// transactions follows the number of nf_tables' last transaction, which all families of a network namespace count together:
// what one keeper writes is no hand edit to another.
type transactions struct {
	last    uint32 // the number that was seen last
	foreign int    // how often others were seen to have made some
}

// seen takes in the number as it is now.
func (t *transactions) seen(number uint32) {
	if number != t.last {
		t.last = number
		t.foreign++
	}
}

// made takes in the number after transactions of our own, which followed what was seen last.
func (t *transactions) made(number, own uint32) {
	if number != t.last && number-t.last != own {
		t.foreign++
	}
	t.last = number
}
