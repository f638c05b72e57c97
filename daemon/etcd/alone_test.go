package etcd

import (
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

func TestCanLeadAlone(t *testing.T) {
	alone := func() raft.Status {
		s := raft.Status{Config: tracker.Config{Voters: quorum.JointConfig{quorum.MajorityConfig{7: {}}}}}
		s.ID, s.HardState, s.Applied = 7, &raftpb.HardState{Commit: new(uint64(5))}, 5
		return s
	}
	for name, c := range map[string]struct {
		change func(*raft.Status)
		can    bool
	}{
		"as it should be":             {func(*raft.Status) {}, true},
		"another member's status":     {func(s *raft.Status) { s.ID = 8 }, false},
		"it leads":                    {func(s *raft.Status) { s.Lead = 7 }, false},
		"not all is applied":          {func(s *raft.Status) { s.Applied = 4 }, false},
		"it knows no members yet":     {func(s *raft.Status) { s.Config.Voters[0] = nil }, false},
		"another votes, too":          {func(s *raft.Status) { s.Config.Voters[0][8] = struct{}{} }, false},
		"it leaves, and another goes": {func(s *raft.Status) { s.Config.Voters[1] = quorum.MajorityConfig{8: {}} }, false},
		"another votes alone":         {func(s *raft.Status) { s.Config.Voters[0] = quorum.MajorityConfig{8: {}} }, false},
	} {
		s := alone()
		c.change(&s)
		if can := canLeadAlone(s, 7); can != c.can {
			t.Errorf("%s: %v", name, can)
		}
	}
}
