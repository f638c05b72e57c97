package nodeagent

import (
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/sleep"
	"lockstep/internal/whole"
	"lockstep/nodeagent/pods"
)

const (
	// lostLife is how long a pod that a new history does not know may wait for one that takes its place: as long as
	// Kubernetes leaves pods on a node that it cannot reach.
	lostLife = 5 * time.Minute
	// lostCheck is how often such pods are compared with those that are there now.
	lostCheck = time.Second
)

func (o Options) historyFile() string { return filepath.Join(o.agentDir(), "history") }

// heard takes in an answer of the API.
func (a *Agent) heard(res *http.Response) {
	if history := res.Header.Get(historyHeader); history != "" {
		a.historySeen(history)
	}
	if mark := res.Header.Get(authorityHeader); mark != "" {
		a.authoritySeen(mark)
	}
}

// historySeen takes in which history of the cluster an answer of the API is of; it comes before the answer's body does. A
// history that differs from the last one may know nothing of this node's pods, and its revisions are other revisions. So
// all is held until the control plane has been told of them; see offer.
func (a *Agent) historySeen(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.history == "" {
		data, _ := os.ReadFile(a.opts.historyFile()) // absent on a new node
		a.history = strings.TrimSpace(string(data))
	}
	if a.history == name {
		return
	}
	first := a.history == ""
	a.history = name
	if first {
		a.keepHistory()
		return
	}
	a.lost, a.holds = map[types.UID]time.Time{}, true
	for uid := range a.pods {
		a.lost[uid] = time.Time{} // until the cluster is rebuilt
	}
	a.log.Warn("the cluster's store is another one than before: all stays as it is until the control plane knows what runs here",
		"pods", len(a.lost))
	a.cluster.Hold()
	poke(a.changed)
	poke(a.offerWake)
}

// release has the node go on with what the API says. Pods that it does not have wait for others that take their places.
func (a *Agent) release() {
	a.mu.Lock()
	a.holds = false
	for uid := range a.lost {
		a.lost[uid] = time.Now().Add(lostLife)
	}
	a.mu.Unlock()
	a.content.StartAnew()
	a.tokens.StartAnew()
	a.cluster.Release()
	poke(a.changed)
	poke(a.lostWake)
}

// holding says whether the node waits for the control plane to know what runs here, and which history that has.
func (a *Agent) holding() (history string, holds bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.history, a.holds
}

// keepHistory keeps the name for the agent's next start. While there are lost pods, the name before stays: they are still lost
// then. a.mu is held.
func (a *Agent) keepHistory() {
	if err := whole.Write(a.opts.historyFile(), []byte(a.history+"\n")); err != nil {
		a.log.Warn("cannot keep the name of the cluster's history", "error", err)
	}
}

// isLost says whether a pod is of a history that was lost, and the API has not shown it since.
func (a *Agent) isLost(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, lost := a.lost[uid]
	return lost
}

func (a *Agent) hasLost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.lost) > 0
}

// found says that a pod is not lost, or ends; it returns whether it was.
func (a *Agent) found(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, was := a.lost[uid]
	delete(a.lost, uid)
	return was
}

// endLost ends the pods of a lost history once others have taken their places, until ctx ends.
func (a *Agent) endLost(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.lostWake:
		}
		for a.endReplaced(time.Now()) && ctx.Err() == nil {
			sleep.For(ctx, lostCheck)
		}
	}
}

// endReplaced says whether pods are left to wait for.
func (a *Agent) endReplaced(now time.Time) bool {
	a.mu.Lock()
	until, held := maps.Clone(a.lost), a.holds
	a.mu.Unlock()
	if held {
		return false // release has it looked at again
	}
	var lost, present []*corev1.Pod
	for _, p := range a.allPods() {
		o, _, _ := p.Status()
		switch end, ok := until[p.UID()]; {
		case p.Wanted().Gone:
			a.found(p.UID()) // it ends anyway
		case !ok:
			present = append(present, o)
		case now.After(end):
			a.end(p.UID(), "no other pod has taken its place")
		default:
			lost = append(lost, o)
		}
	}
	for _, uid := range pods.Replaced(lost, present) {
		a.end(uid, "another pod has taken its place")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lost) == 0 {
		a.keepHistory()
	}
	return len(a.lost) > 0
}

func (a *Agent) end(uid types.UID, why string) {
	a.log.Info("ending pod of a history that was lost", "uid", uid, "why", why)
	a.found(uid)
	a.podGone(uid)
}
