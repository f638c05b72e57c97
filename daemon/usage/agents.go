// Package usage asks agents what their pods and nodes use.
package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	// timeout bounds one node's answer: a node that hangs keeps nobody from the others' for longer.
	timeout = 5 * time.Second
	// atOnce bounds the nodes that are asked at a time: more would wait for the processors.
	atOnce = 64
	// maxAnswer bounds one node's answer, which is some 100 bytes a container.
	maxAnswer = 4 << 20
)

// Agents are asked over the connections that they opened.
type Agents struct {
	// Transport sends requests to the agent of a node, or is nil where that has no connection here.
	Transport func(node string) http.RoundTripper
	Log       *slog.Logger
}

// Pods returns what pods use, by their uids: those that run, and that their node has measured twice. The rest is left out, and so
// are those of a node that does not answer; the error is ctx's.
func (a Agents) Pods(ctx context.Context, pods iter.Seq[*corev1.Pod]) (map[types.UID]*metricsv1beta1.PodMetrics, error) {
	used, _, err := a.pods(ctx, pods)
	return used, err
}

// pods is Pods, and whether all nodes have answered that have such pods.
func (a Agents) pods(ctx context.Context, pods iter.Seq[*corev1.Pod]) (
	out map[types.UID]*metricsv1beta1.PodMetrics, all bool, err error) {
	wanted := map[string]map[types.UID]bool{} // by node
	for p := range pods {
		node := p.Spec.NodeName
		if node == "" || p.Status.Phase != corev1.PodRunning {
			continue
		}
		if wanted[node] == nil {
			wanted[node] = map[types.UID]bool{}
		}
		wanted[node][p.UID] = true
	}
	out = map[types.UID]*metricsv1beta1.PodMetrics{}
	answered := 0
	var mu sync.Mutex
	err = a.each(ctx, maps.Keys(wanted), func(ctx context.Context, node string) error {
		var used metricsv1beta1.PodMetricsList
		if err := a.ask(ctx, node, "/usage/pods", &used); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		answered++
		for i := range used.Items {
			if uid := used.Items[i].UID; wanted[node][uid] {
				out[uid] = &used.Items[i]
			}
		}
		return nil
	})
	return out, answered == len(wanted), err
}

// Nodes returns what nodes use, by their names, of those that answer and have measured themselves twice; the error is ctx's.
func (a Agents) Nodes(ctx context.Context, names iter.Seq[string]) (map[string]*metricsv1beta1.NodeMetrics, error) {
	out := map[string]*metricsv1beta1.NodeMetrics{}
	var mu sync.Mutex
	err := a.each(ctx, names, func(ctx context.Context, node string) error {
		used := &metricsv1beta1.NodeMetrics{}
		if err := a.ask(ctx, node, "/usage/node", used); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		out[node] = used
		return nil
	})
	return out, err
}

// each asks nodes side by side.
func (a Agents) each(ctx context.Context, nodes iter.Seq[string], ask func(context.Context, string) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for node := range nodes {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if err := ask(ctx, node); err != nil {
				a.Log.Debug("a node does not tell what it uses", "node", node, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return ctx.Err()
}

func (a Agents) ask(ctx context.Context, node, path string, into interface{ Unmarshal([]byte) error }) error {
	transport := a.Transport(node)
	if transport == nil {
		return errors.New("its agent has no connection to this server")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+path, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("cannot read %s of node %s: %s", path, node, answer.Status)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	return into.Unmarshal(body)
}
