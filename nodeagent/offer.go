package nodeagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/recall"
	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/nodeagent/pods"
)

const (
	// offerRetry is how often it is asked how far the rebuild is, and whether the server is there.
	offerRetry = 250 * time.Millisecond
	// offerTimeout bounds a part: some hundred writes of etcd, over a slow line.
	offerTimeout = 30 * time.Second
	// offerSettle is how long pods that an agent has just taken up may take to know how they are.
	offerSettle = 3 * time.Second
	// maxOfferAnswer bounds the answer, of some hundred bytes.
	maxOfferAnswer = 64 << 10
)

// errNoRebuild says that the server is of a release that takes nothing over, or that the node has no say in it.
var errNoRebuild = errors.New("the server takes nothing over")

// offer tells the control plane, whenever its store is another one, what runs here, and holds everything until that is known there,
// until ctx ends.
func (a *Agent) offer(ctx context.Context, link http.RoundTripper) error {
	for ctx.Err() == nil {
		if _, holds := a.holding(); !holds {
			select {
			case <-ctx.Done():
				return nil
			case <-a.offerWake:
			}
			continue
		}
		if err := a.offerAll(ctx, link); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot tell the control plane what runs here: all stays as it is", "error", err)
			sleep.For(ctx, joinRetry)
			continue
		}
		if ctx.Err() == nil {
			a.log.Info("following the cluster again")
			a.release()
		}
	}
	return nil
}

// offerAll tells everything, and returns nil when nothing is to be held any longer.
func (a *Agent) offerAll(ctx context.Context, link http.RoundTripper) error {
	to, _ := a.holding()
	answer, err := a.sendOffer(ctx, link, a.ownOffer(ctx))
	if errors.Is(err, errNoRebuild) {
		return nil
	}
	told := false
	for err == nil && answer.Rebuilding && (answer.Until.IsZero() || time.Now().Before(answer.Until)) {
		if answer.Cluster && !told {
			told = true
			answer, err = a.sendOffer(ctx, link, a.clusterOffer())
			continue
		}
		if !sleep.For(ctx, offerRetry) {
			return ctx.Err()
		}
		if now, _ := a.holding(); now != to {
			return errors.New("its store is another one again")
		}
		var next recall.Answer
		next, err = a.exchange(ctx, link, http.MethodGet, nil)
		if away := err != nil && !errors.Is(err, errNoRebuild); away {
			sleep.For(ctx, joinRetry)
			err = ctx.Err() // it is asked again: what was told is kept
			continue
		}
		answer = next
	}
	return err
}

// ownOffer is what the node runs.
func (a *Agent) ownOffer(ctx context.Context) recall.Offer {
	a.settleStatuses(ctx)
	o := recall.Offer{Complete: true}
	refs := map[pods.Reference]bool{}
	for _, p := range a.allPods() {
		object, _, needed := p.Status()
		if !needed {
			continue
		}
		o.Pods, o.Runs = append(o.Pods, object), append(o.Runs, object.UID)
		for i := range object.Spec.Volumes {
			if name := kinds.ClaimOf(object, &object.Spec.Volumes[i]); name != "" {
				refs[pods.Reference{Resource: pods.PersistentVolumeClaims, Namespace: object.Namespace, Name: name}] = true
			}
		}
	}
	for ref := range refs {
		if c, ok := a.content.Last(ref).(*corev1.PersistentVolumeClaim); ok {
			o.Claims = append(o.Claims, c)
		}
	}
	for ref := range a.content.Bound(refs) {
		if pv, ok := a.content.Last(ref).(*corev1.PersistentVolume); ok {
			o.Volumes = append(o.Volumes, pv)
		}
	}
	if s := a.cluster.Snapshot(); s != nil {
		o.Seen = newest(s.Services, newest(s.Slices, 0))
		if n := s.Node(a.opts.NodeName); n != nil {
			o.Nodes = []*corev1.Node{n}
		}
	}
	return o
}

// clusterOffer is what the node knows of the cluster.
func (a *Agent) clusterOffer() recall.Offer {
	o := recall.Offer{Complete: true, Cluster: true}
	if s := a.cluster.Snapshot(); s != nil {
		o.Services, o.Slices, o.Nodes, o.Seen = s.Services, s.Slices, s.Nodes, newest(s.Services, newest(s.Slices, 0))
	}
	return o
}

// newest is the newest revision of objects, at least so much.
func newest[T metav1.Object](objects []T, least int64) int64 {
	for _, o := range objects {
		least = max(least, kinds.Revision(o))
	}
	return least
}

// settleStatuses waits until pods that were taken up a moment ago know how they are: what is kept of them is older.
func (a *Agent) settleStatuses(ctx context.Context) {
	select {
	case <-a.cluster.Known():
	case <-ctx.Done():
	case <-time.After(offerSettle):
	}
	for end := time.Now().Add(offerSettle); time.Now().Before(end) && ctx.Err() == nil; sleep.For(ctx, offerRetry/10) {
		settled := true
		for _, p := range a.allPods() {
			_, version, needed := p.Status()
			settled = settled && (version > 0 || !needed)
		}
		if settled {
			return
		}
	}
}

// sendOffer sends an offer, part by part.
func (a *Agent) sendOffer(ctx context.Context, link http.RoundTripper, o recall.Offer) (answer recall.Answer, err error) {
	for _, part := range o.Parts() {
		data, err := json.Marshal(part)
		if err != nil {
			return answer, err
		}
		if answer, err = a.exchange(ctx, link, http.MethodPost, data); err != nil {
			return answer, err
		}
	}
	return answer, nil
}

// exchange asks once.
func (a *Agent) exchange(ctx context.Context, link http.RoundTripper, method string, body []byte) (answer recall.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, a.servers.Current()+recall.Path, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: link}).Do(request)
	if err != nil {
		return answer, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxOfferAnswer))
	switch {
	case err != nil:
		return answer, err
	case response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed:
		return answer, errNoRebuild
	case response.StatusCode != http.StatusOK:
		return answer, fmt.Errorf("the server answers %s", response.Status)
	}
	return answer, json.Unmarshal(data, &answer)
}
