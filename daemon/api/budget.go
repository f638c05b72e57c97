package api

import (
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/daemon/rights"
	"lockstep/internal/quota"
)

// What one credential may use: one node, viewer's certificate or token, or who shows none, one address.
const (
	// requestRate and requestBurst: an agent that starts a hundred pods makes some two thousand requests in half a minute.
	requestRate, requestBurst = 200, 4000
	// byteRate and byteBurst count what is read and what is answered: an agent's lists of 10,000 services are 20 MB, a list
	// of 100,000 pods 300 MB.
	byteRate, byteBurst = 32 << 20, 512 << 20
	// writeRate and writeBurst are of the bytes that a node has stored: etcd keeps every version of an object until it is
	// compacted, and a node that starts 110 pods writes some tens of megabytes.
	writeRate, writeBurst = 1 << 20, 128 << 20
	// eventRate and eventBurst are of a node's events: five a pod at the start of 110 pods, then what a node in trouble tells.
	eventRate, eventBurst = 5, 1000
	// share is the part of the requests under way that one credential may have.
	share = 4
	// nodeStays bounds the watches of a node: one a Secret and ConfigMap of its pods, and as many as HTTP/2 lets into one
	// connection. viewerStays is for programs that share a kubeconfig, peerStays for viewers behind one address; each takes
	// up to a quarter of a megabyte.
	nodeStays, viewerStays, peerStays = 1000, 1200, 2000
	// spendAfter is after how many bytes of an answer its credential is charged.
	spendAfter = 256 << 10
)

// peerOf is what nobody's budgets are kept by.
func peerOf(r *http.Request) string { return "peer/" + quota.Peer(r.RemoteAddr) }

// budgets are what each credential has used.
type budgets struct {
	requests, bytes, events, stored *quota.Rate
	reads, writes                   *quota.Gate
	nodes, viewers, peers           *quota.Gate // of requests that live long
}

func newBudgets(maxReads, maxWrites int) budgets {
	return budgets{
		requests: quota.NewRate(requestRate, requestBurst), bytes: quota.NewRate(byteRate, byteBurst),
		events: quota.NewRate(eventRate, eventBurst), stored: quota.NewRate(writeRate, writeBurst),
		reads: quota.NewGate(max(1, maxReads/share)), writes: quota.NewGate(max(1, maxWrites/share)),
		nodes: quota.NewGate(nodeStays), viewers: quota.NewGate(viewerStays), peers: quota.NewGate(peerStays),
	}
}

// afford takes one request from a credential's budgets.
func (b *budgets) afford(credential string, now time.Time) error {
	if !b.bytes.Allow(credential, 0, now) || !b.requests.Allow(credential, 1, now) {
		return apierrors.NewTooManyRequests("this client has asked for more than its share, try again later", retryAfter)
	}
	return nil
}

// stay counts a request that lives long, until leave is called; leave is nil where there are too many.
func (b *budgets) stay(id identity, peer string) (leave func()) {
	if id.Role == rights.Node {
		return b.nodes.Enter(id.credential)
	}
	one := b.viewers.Enter(id.credential)
	if one == nil {
		return nil
	}
	other := b.peers.Enter(peer)
	if other == nil {
		one()
		return nil
	}
	return func() {
		one()
		other()
	}
}

// metered charges a credential for a request's body, and by what it returns for the answer.
func (s *server) metered(r *http.Request, credential string) (answered func(n int)) {
	spend := func(n int) { s.budgets.bytes.Spend(credential, float64(n), s.now()) }
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &meter{r.Body, spend}
	}
	return spend
}

type meter struct {
	io.ReadCloser
	spend func(int)
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.spend(n)
	return n, err
}
