// Package storebench measures the store against the etcd under it.
package storebench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/daemon/etcd"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// perTxn and inFlight are how the store itself groups: the bound is measured the same way.
	perTxn   = 127
	inFlight = 8
	pageSize = 2000
	// Nodes is how many nodes the pods are on, 100 of 100,000 each: Kubernetes allows 110 a node.
	Nodes = 1000
	// raw is where the bound's bytes go, outside of the store's prefix.
	raw = "/storebench/"
)

// Ratio compares the store with its bound, both in the same unit, the medians of alternating rounds.
type Ratio struct {
	Store, Bound float64
}

// Pod returns a pod of the size running ones have, about 2 kB stored.
func Pod(i int) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: fmt.Sprintf("ns-%02d", i%50), Name: fmt.Sprintf("web-6d4cf56db6-%06d", i), Generation: 1,
		Labels: map[string]string{"app": fmt.Sprintf("web-%d", i%1000), "pod-template-hash": "6d4cf56db6", "tier": "frontend"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-6d4cf56db6",
			UID: types.UID(fmt.Sprintf("rs-%d", i%1000)), Controller: &yes, BlockOwnerDeletion: &yes}},
	}}
	grace := int64(30)
	p.Spec = corev1.PodSpec{
		NodeName: NodeName(i % Nodes), RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
		TerminationGracePeriodSeconds: &grace, ServiceAccountName: "default", SchedulerName: "default-scheduler",
		SecurityContext: &corev1.PodSecurityContext{},
		Containers: []corev1.Container{{
			Name: "web", Image: "registry.example/shop/web:1.27.3", ImagePullPolicy: corev1.PullIfNotPresent,
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "UPSTREAM", Value: "http://api.shop.svc.cluster.local"}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
			}},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		}},
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.3.7", HostIP: "192.168.0.7", QOSClass: corev1.PodQOSBurstable}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(time.Unix(1700000000, 0))})
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Image: p.Spec.Containers[0].Image,
		ImageID: "registry.example/shop/web@sha256:0123456789abcdef", ContainerID: "containerd://0123456789abcdef0123456789abcdef",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(1700000000, 0))}}}}
	return p
}

// NodeName is the name of the i-th node.
func NodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

// Fill commits n pods and waits for the view to have them.
func Fill(ctx context.Context, s *store.Store, n int) error {
	var all []int
	for i := range n {
		all = append(all, i)
	}
	for chunk := range slices.Chunk(all, 10000) {
		groups := make([]store.Group, len(chunk))
		for i, number := range chunk {
			p := Pod(number)
			groups[i] = store.Group{{Key: kinds.KeyOf(p), Object: p}}
		}
		if err := Commit(ctx, s, groups); err != nil {
			return fmt.Errorf("cannot fill the store: %w", err)
		}
	}
	return nil
}

// Commit writes the groups, and returns once the view has them.
func Commit(ctx context.Context, s *store.Store, groups []store.Group) error {
	var reached int64
	for _, r := range s.Commit(ctx, groups...) {
		if r.Err != nil {
			return r.Err
		}
		reached = max(reached, r.Revision)
	}
	_, err := s.Wait(ctx, reached)
	return err
}

// Rates are a second, the medians of alternating rounds.
type Rates struct {
	Store float64 // updates, counted when the view has followed
	Etcd  float64 // puts of the same bytes by etcd's own client, through its socket
	// Direct is puts by calls of the server in this process, as the store of an embedded etcd makes them.
	Direct float64
}

// Updates measures updates of n pods of a filled store against etcd's own rates for the same bytes, in transactions of
// plain puts.
func Updates(ctx context.Context, s *store.Store, e *etcd.Etcd, n, rounds int) (Rates, error) {
	var ours, dialled, direct []float64
	for round := range rounds {
		groups, err := updates(s.View(), n, round)
		if err != nil {
			return Rates{}, err
		}
		start := time.Now()
		if err := Commit(ctx, s, groups); err != nil {
			return Rates{}, fmt.Errorf("cannot update: %w", err)
		}
		ours = append(ours, float64(n)/time.Since(start).Seconds())

		rate, err := PutRate(ctx, e.Dialled(), n)
		if err != nil {
			return Rates{}, err
		}
		dialled = append(dialled, rate)
		if rate, err = PutRate(ctx, e.Client, n); err != nil {
			return Rates{}, err
		}
		direct = append(direct, rate)
	}
	return Rates{Store: median(ours), Etcd: median(dialled), Direct: median(direct)}, nil
}

// PutRate measures how many plain puts a second etcd itself takes, grouped as the store groups, of the bytes that the
// first n pods have.
func PutRate(ctx context.Context, client *clientv3.Client, n int) (float64, error) {
	values, err := readValues(ctx, client, n)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := putAll(ctx, client, values); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// Secret returns a Secret of the size that a certificate with its key has, about 2 kB.
func Secret(i, round int) *corev1.Secret {
	data := make([]byte, 1700)
	for at := range data {
		data[at] = byte(at * (round + 1))
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%02d", i%50), Name: fmt.Sprintf("tls-%06d", i)},
		Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": data[:1400], "tls.key": data[1400:]}}
}

// Secrets measures updates of n Secrets in two stores, each seen in its view, in alternating rounds: the medians a second.
func Secrets(ctx context.Context, one, other *store.Store, n, rounds int) (Ratio, error) {
	var rates [2][]float64
	for round := range rounds + 1 {
		stores := []*store.Store{one, other}
		for turn := range stores { // who is first pays for what the one before has left to be collected: each is, every other time
			i := (turn + round) % len(stores)
			s := stores[i]
			groups := make([]store.Group, n)
			for j := range groups {
				o := Secret(j, round)
				groups[j] = store.Group{{Key: kinds.KeyOf(o), Object: o, If: store.Anyway}}
			}
			start := time.Now()
			if err := Commit(ctx, s, groups); err != nil {
				return Ratio{}, fmt.Errorf("cannot write Secrets: %w", err)
			}
			if round > 0 { // the first makes them
				rates[i] = append(rates[i], float64(n)/time.Since(start).Seconds())
			}
		}
	}
	return Ratio{Store: median(rates[0]), Bound: median(rates[1])}, nil
}

func updates(v *view.View, n, round int) ([]store.Group, error) {
	groups := make([]store.Group, 0, n)
	for p := range view.List[*corev1.Pod](v, "") {
		if len(groups) == n {
			break
		}
		q := *p
		q.Status.HostIP = fmt.Sprintf("192.168.0.%d", round)
		groups = append(groups, store.Group{{Key: kinds.KeyOf(p), Object: &q, If: kinds.Revision(p)}})
	}
	if len(groups) < n {
		return nil, fmt.Errorf("the view has %d pods, want %d", len(groups), n)
	}
	return groups, nil
}

func readValues(ctx context.Context, client *clientv3.Client, n int) ([][]byte, error) {
	resp, err := client.Get(ctx, store.DefaultPrefix+"objects/core/pods/", clientv3.WithPrefix(), clientv3.WithLimit(int64(n)))
	if err != nil {
		return nil, fmt.Errorf("cannot read values: %w", err)
	}
	out := make([][]byte, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		out[i] = kv.Value
	}
	return out, nil
}

// putAll puts values in transactions, some of them in flight at once.
func putAll(ctx context.Context, client *clientv3.Client, values [][]byte) error {
	type chunk struct {
		from   int
		values [][]byte
	}
	work := make(chan chunk, len(values)/perTxn+1)
	from := 0
	for c := range slices.Chunk(values, perTxn) {
		work <- chunk{from, c}
		from += len(c)
	}
	close(work)
	var wg sync.WaitGroup
	errs := make([]error, inFlight)
	for w := range inFlight {
		wg.Go(func() {
			for c := range work {
				ops := make([]clientv3.Op, len(c.values))
				for i, v := range c.values {
					ops[i] = clientv3.OpPut(fmt.Sprintf("%s%08d", raw, c.from+i), string(v))
				}
				if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
					errs[w] = fmt.Errorf("cannot put: %w", err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Open measures the seconds until a store of the data in etcd is ready, against reading and decoding its pods alone.
func Open(ctx context.Context, client *clientv3.Client, opts store.Options, rounds int) (Ratio, error) {
	var ours, bound []float64
	for range rounds {
		start := time.Now()
		if err := open(ctx, client, opts); err != nil {
			return Ratio{}, err
		}
		ours = append(ours, time.Since(start).Seconds())
		start = time.Now()
		if err := readAndDecode(ctx, client); err != nil {
			return Ratio{}, err
		}
		bound = append(bound, time.Since(start).Seconds())
	}
	return Ratio{Store: median(ours), Bound: median(bound)}, nil
}

func open(ctx context.Context, client *clientv3.Client, opts store.Options) error {
	s, err := store.Open(ctx, client, opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
		cancel()
		return <-done
	case err := <-done:
		cancel()
		return errors.Join(errors.New("the store ended before it was ready"), err)
	}
}

func readAndDecode(ctx context.Context, client *clientv3.Client) error {
	from := store.DefaultPrefix + "objects/core/pods/"
	end := clientv3.GetPrefixRangeEnd(from)
	var kept []*corev1.Pod
	for {
		resp, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize))
		if err != nil {
			return fmt.Errorf("cannot read values: %w", err)
		}
		for _, kv := range resp.Kvs {
			p := &corev1.Pod{}
			// The header is the magic, the encoding, the version's length and the version.
			if err := p.Unmarshal(kv.Value[6+int(kv.Value[5]):]); err != nil {
				return fmt.Errorf("cannot decode %s: %w", kv.Key, err)
			}
			kept = append(kept, p)
		}
		if !resp.More {
			runtime.KeepAlive(kept)
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
