package main

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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/storebench"
)

// scrapeEvery is how often a Prometheus asks; what was measured is not measured again sooner.
const scrapeEvery = 15 * time.Second

// usagePath is what `kubectl top pod -A` reads.
const usagePath = "/apis/metrics.k8s.io/v1/pods"

// statistics measures what it costs to tell what pods use: a node's, asked for in every form as often as it is measured, and
// what a cluster's API takes to tell of many.
func statistics(ctx context.Context, n *node) ([]Row, error) {
	pods, many := n.size(100, 4), n.size(1000, 50)
	cores, err := n.scraped(ctx, pods, n.times(4))
	if err != nil {
		return nil, err
	}
	top, err := n.top(ctx, many)
	if err != nil {
		return nil, err
	}
	return []Row{
		below(fmt.Sprintf("statistics of %d pods in every form, every 15 s", pods), "% of a core", 100*cores, 1),
		below(fmt.Sprintf("kubectl top's list of %d pods through the TLS API", many), "ms", 1000*top, 100),
	}, nil
}

// scraped is the part of a core that a node's statistics take, the API server's part included: the CPU time from before to
// after the answers, since nothing is measured in between.
func (n *node) scraped(ctx context.Context, pods, rounds int) (_ float64, err error) {
	w, err := n.workbench(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	if _, err := w.replicas(ctx, pods, true); err != nil {
		return 0, err
	}
	proxy := "/api/v1/nodes/" + name + "/proxy/"
	var used float64
	for range rounds {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Duration(n.size(int(scrapeEvery), 0))):
		}
		before, _, err := w.usage()
		if err != nil {
			return 0, err
		}
		for _, path := range []string{proxy + "metrics/cadvisor", proxy + "metrics/resource", proxy + "metrics/probes",
			proxy + "stats/summary", usagePath} {
			if _, err := w.kube.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx); err != nil {
				return 0, fmt.Errorf("cannot read %s: %w", path, err)
			}
		}
		after, _, err := w.usage()
		if err != nil {
			return 0, err
		}
		used += after - before
	}
	return used / (float64(rounds) * scrapeEvery.Seconds()), nil
}

// perNode is how many pods a node has, about as many as Kubernetes allows.
const perNode = 100

// top measures reading what many pods use, on nodes whose agents have it ready.
func (n *node) top(ctx context.Context, pods int) (took float64, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	agents := usageAgents{}
	var groups []store.Group
	for i := range pods {
		pod := storebench.Pod(i)
		pod.UID, pod.Spec.NodeName = types.UID(fmt.Sprint("uid-", i)), storebench.NodeName(i/perNode)
		groups = append(groups, store.Group{{Key: kinds.KeyOf(pod), Object: pod}})
		agents.add(pod, int64(i))
	}
	err = withStore(ctx, database.Client, storeOptions(), func(ctx context.Context, s *store.Store) error {
		if err := storebench.Commit(ctx, s, groups); err != nil {
			return err
		}
		return n.withAPI(ctx, s, agents, func(ctx context.Context, kube *kubernetes.Clientset) error {
			read := func(ctx context.Context) error {
				raw, err := kube.CoreV1().RESTClient().Get().AbsPath(usagePath).SetHeader("Accept", "application/json").DoRaw(ctx)
				var list metricsv1.PodMetricsList
				if err == nil {
					err = json.Unmarshal(raw, &list)
				}
				if err == nil && len(list.Items) != pods {
					err = fmt.Errorf("cannot read what pods use: got %d, want %d", len(list.Items), pods)
				}
				return err
			}
			untilServed(ctx, read)
			took, err = repeat(ctx, n.times(20), timed(read))
			return err
		})
	})
	return took, err
}

// usageAgents are what the agents of nodes answer of their pods' use, by node.
type usageAgents map[string]*metricsv1beta1.PodMetricsList

func (a usageAgents) add(pod *corev1.Pod, number int64) {
	list := a[pod.Spec.NodeName]
	if list == nil {
		list = &metricsv1beta1.PodMetricsList{}
		a[pod.Spec.NodeName] = list
	}
	list.Items = append(list.Items, metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Timestamp:  metav1.Now(), Window: metav1.Duration{Duration: scrapeEvery},
		Containers: []metricsv1beta1.ContainerMetrics{{Name: pod.Spec.Containers[0].Name, Usage: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewScaledQuantity(number*1_234_567, resource.Nano),
			corev1.ResourceMemory: *resource.NewQuantity(number<<20, resource.BinarySI),
		}}},
	})
}

// Transport implements api.Tunnels.
func (a usageAgents) Transport(node string) http.RoundTripper {
	if a[node] == nil {
		return nil
	}
	return answering{a[node]}
}

// Accept implements api.Tunnels: there are no other agents.
func (usageAgents) Accept(w http.ResponseWriter, r *http.Request, _ string) { http.NotFound(w, r) }

type answering struct {
	list *metricsv1beta1.PodMetricsList
}

// RoundTrip implements http.RoundTripper.
func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	body, err := a.list.Marshal()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}, nil
}
