package etcd

import (
	"context"
	"expvar"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// ticksAlone of raft's clock are an election's time-out, the fewest that etcd takes: each wakes the process, and nobody waits for the
	// beats of a member that is alone.
	ticksAlone = 5
	// electEvery is how often a member that starts alone looks whether it can lead.
	electEvery = 10 * time.Millisecond
)

// alone sets what suits a member without others; one that others join has it until its next start.
func alone(c *embed.Config) {
	c.SnapshotCatchUpEntries = aloneEntries
	c.TickMs = c.ElectionMs / ticksAlone
}

// starting is how many members of this process start just now.
var starting atomic.Int32

// electAlone has the only voter elect itself. Raft by itself would wait for a random part of a second, in case there are others.
func (e *Etcd) electAlone(ctx context.Context) {
	id := uint64(e.server.Server.MemberID())
	if s, ok := raftStatus(); ok && starting.Load() == 1 && canLeadAlone(s, id) {
		now := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id}
		_ = e.server.Server.Process(ctx, now) // a lost one is made up for by the next, or by Raft
	}
}

// canLeadAlone says that a member is the only voter, has applied all that it knows to be committed, and has no leader. Raft reads what is
// not applied before it votes, while etcd may have dropped that from memory by then.
func canLeadAlone(s raft.Status, id uint64) bool {
	voters := s.Config.Voters.IDs()
	_, votes := voters[id]
	return s.ID == id && votes && len(voters) == 1 && s.Lead == raft.None && s.Applied >= s.GetCommit()
}

// raftStatus is what Raft says of the member that this process started last. Etcd has it for who debugs it alone.
func raftStatus() (raft.Status, bool) {
	v, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return raft.Status{}, false
	}
	s, ok := v.Value().(raft.Status)
	return s, ok && s.HardState != nil
}
