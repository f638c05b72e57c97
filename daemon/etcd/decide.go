package etcd

import "time"

// member is one server's state.
type member struct {
	endpoint string
	id       uint64
	short    bool  // its disk is nearly full
	size     int64 // of the database file, bytes
	used     int64 // of it by live data and history
	quota    int64 // zero where the server does not tell
	noSpace  bool  // its alarm is raised
	defragAt time.Time
}

const (
	// defragShare and defragLeast are how much of a file must be free to be worth the pause of rewriting it.
	defragShare = 0.5
	defragLeast = 64 << 20
	// defragEvery is the least time between two rewrites of one file without need.
	defragEvery = time.Hour
	// urgentShare of the quota used up is when free space is given back without waiting for more.
	urgentShare = 0.8
	// squeezeEvery is the least time between two rewrites of a full file that has nothing to give back: each stops the
	// server for as long as it takes.
	squeezeEvery = 5 * time.Minute
	// disarmShare of the quota is how far a file must have shrunk before its alarm is lifted, so that it is not raised
	// again by the next writes.
	disarmShare = 0.95
)

// plan is what maintenance does next, in this order.
type plan struct {
	// raise is the member whose alarm is raised, before its disk refuses what etcd could not do without; zero: none.
	raise uint64
	// compactNow drops all history at once instead of waiting for it to age.
	compactNow bool
	defrag     []string // endpoints, one after the other
	disarm     bool
	reason     string
}

func (p plan) idle() bool { return p.raise == 0 && !p.compactNow && len(p.defrag) == 0 && !p.disarm }

// remedy is how far the treatment of a raised alarm has come.
type remedy int

const (
	untreated remedy = iota
	compacted
	defragmented
)

// decide returns what to do about members in a state. A full etcd is treated in steps: all history goes, the files are
// rewritten, and where they have become small enough the alarm is lifted. Where they have not, the live data fills it:
// the zero plan says to wait and begin again.
func decide(members []member, now time.Time, done remedy) plan {
	full, shrunk, cramped := false, true, false
	for _, m := range members {
		if m.short && !m.noSpace {
			return plan{raise: m.id, reason: "the disk is nearly full"}
		}
		full, cramped = full || m.noSpace, cramped || m.short
		if m.quota > 0 && float64(m.size) > disarmShare*float64(m.quota) {
			shrunk = false
		}
	}
	switch {
	case full && done == untreated:
		return plan{compactNow: true, reason: "etcd is full"}
	case cramped:
		return plan{} // rewriting a file takes as much again, and the alarm stays until the disk has room
	case full && done == compacted:
		p := plan{reason: "etcd is full"}
		for _, m := range members {
			if m.quota > 0 && float64(m.used) > disarmShare*float64(m.quota) && now.Sub(m.defragAt) < squeezeEvery {
				return plan{} // the live data fills it
			}
			p.defrag = append(p.defrag, m.endpoint)
		}
		return p
	case full && shrunk:
		return plan{disarm: true, reason: "there is space again"}
	case full:
		return plan{}
	}
	var p plan
	for _, m := range members {
		free := m.size - m.used
		urgent := m.quota > 0 && float64(m.size) > urgentShare*float64(m.quota) && free > m.size/4
		idle := free > defragLeast && float64(free) > defragShare*float64(m.size)
		if (urgent || idle) && now.Sub(m.defragAt) > defragEvery {
			p.defrag = append(p.defrag, m.endpoint)
			p.reason = "much of the file is free"
		}
	}
	return p
}
