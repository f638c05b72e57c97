package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"lockstep/daemon/api"
	"lockstep/daemon/encryption"
	"lockstep/daemon/etcd"
	"lockstep/daemon/heap"
	"lockstep/daemon/pki"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/storebench"
	"lockstep/store/view"
)

// bigStore measures a store of many pods: updates, opening, and what an agent reads at its start.
func bigStore(ctx context.Context, n *node) (_ []Row, err error) {
	database, end, err := n.database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	pods := n.size(100_000, 2000)
	updates, read, err := n.writeAndRead(ctx, database, pods)
	if err != nil {
		return nil, err
	}
	open, err := storebench.Open(ctx, database.Client, storeOptions(), n.times(10))
	if err != nil {
		return nil, err
	}
	return []Row{
		reaching(fmt.Sprintf("store of %d pods, grouped updates seen in the view", pods), "/s", updates.Store, updates.Etcd, 0.5),
		beside(fmt.Sprintf("store of %d pods, the same beside puts without a socket", pods), "/s", updates.Store, updates.Direct),
		within(fmt.Sprintf("store of %d pods, open", pods), "s", open.Store, open.Bound, 2),
		below(fmt.Sprintf("one node's %d pods of %d through the TLS API", pods/storebench.Nodes, pods), "ms", 1000*read, 5),
	}, nil
}

// sealing measures what encryption costs.
func sealing(ctx context.Context, n *node) ([]Row, error) {
	rates, err := n.sealed(ctx)
	if err != nil {
		return nil, err
	}
	return []Row{reaching("grouped updates of Secrets seen in the view, sealed beside in plain", "/s", rates.Store, rates.Bound, 0.9)}, nil
}

// sealed measures updates of Secrets that are sealed as in the daemon, beside those that are not, each in an etcd of its own.
func (n *node) sealed(ctx context.Context) (_ storebench.Ratio, err error) {
	dir, err := n.folder()
	if err != nil {
		return storebench.Ratio{}, err
	}
	keys, err := pki.OpenSealingKeys(pki.Dir(dir), time.Now(), func() error { return nil })
	if err != nil {
		return storebench.Ratio{}, err
	}
	keyring := encryption.NewKeyring(encryption.Config{}, keys)
	sealing := storeOptions()
	sealing.Transformer, sealing.Records = keyring, []view.Record{*keyring.First().Record()}
	var out storebench.Ratio
	both := [2]store.Options{sealing, storeOptions()}
	var databases [2]*etcd.Etcd
	for i := range databases {
		database, end, err := n.database(ctx)
		if err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, end()) }()
		databases[i] = database
	}
	err = withStore(ctx, databases[0].Client, both[0], func(ctx context.Context, one *store.Store) error {
		return withStore(ctx, databases[1].Client, both[1], func(ctx context.Context, other *store.Store) (err error) {
			out, err = storebench.Secrets(ctx, one, other, n.size(20_000, 200), n.times(10))
			if left := one.Seals(); err == nil && (left.Stale > 0 || left.By[""] > 0) {
				err = fmt.Errorf("not everything was sealed: %+v", left)
			}
			return err
		})
	})
	return out, err
}

func storeOptions() store.Options {
	return store.Options{Default: strategy.Default, Log: slog.New(slog.DiscardHandler)}
}

// withStore runs f while a store runs.
func withStore(ctx context.Context, client *clientv3.Client, opts store.Options,
	f func(context.Context, *store.Store) error) error {
	s, err := store.Open(ctx, client, opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running errgroup.Group
	running.Go(func() error { return s.Run(ctx) })
	running.Go(func() error { return heap.Pace(ctx) }) // as in the daemon
	select {
	case <-s.Ready():
		err = f(ctx, s)
	case <-ctx.Done():
	}
	cancel()
	return errors.Join(err, running.Wait())
}

func (n *node) writeAndRead(ctx context.Context, database *etcd.Etcd, pods int) (updates storebench.Rates, read float64, err error) {
	err = withStore(ctx, database.Client, storeOptions(), func(ctx context.Context, s *store.Store) error {
		if err := storebench.Fill(ctx, s, pods); err != nil {
			return err
		}
		// Enough in a round that each side's rounds pay for collecting its own garbage.
		if updates, err = storebench.Updates(ctx, s, database, n.size(30_000, 200), n.times(10)); err != nil {
			return err
		}
		read, err = n.readNode(ctx, s, pods/storebench.Nodes)
		return err
	})
	return updates, read, err
}

// withAPI runs f while an API server serves the store over TLS, to which tunnels lead.
func (n *node) withAPI(ctx context.Context, s *store.Store, tunnels api.Tunnels,
	f func(context.Context, *kubernetes.Clientset) error) (err error) {
	dir, err := n.folder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	authority, err := pki.Open(pki.Dir(filepath.Join(dir, "pki")), pki.Options{})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := api.New(api.Options{
		Store: s, Authority: authority, Hosts: []string{"127.0.0.1"}, Tunnels: tunnels, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(ctx)
	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(ctx, listener) })
	defer func() {
		cancel()
		err = errors.Join(err, serving.Wait())
	}()
	cert, key, err := authority.Viewer("bench", 0)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + listener.Addr().String(), QPS: -1,
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
		TLSClientConfig: rest.TLSClientConfig{CAData: authority.PEM(), CertData: cert, KeyData: key},
	})
	if err != nil {
		return err
	}
	return f(ctx, kube)
}

// readNode measures listing one node's pods through the API over TLS.
func (n *node) readNode(ctx context.Context, s *store.Store, want int) (took float64, err error) {
	err = n.withAPI(ctx, s, nil, func(ctx context.Context, kube *kubernetes.Clientset) error {
		node := 0
		list := func(ctx context.Context) error {
			selector := metav1.ListOptions{FieldSelector: "spec.nodeName=" + storebench.NodeName(node)}
			pods, err := kube.CoreV1().Pods("").List(ctx, selector)
			if err == nil && len(pods.Items) != want {
				err = fmt.Errorf("cannot read a node's pods: got %d, want %d", len(pods.Items), want)
			}
			return err
		}
		untilServed(ctx, list)
		took, err = repeat(ctx, n.size(100, 3), timed(func(ctx context.Context) error {
			node++
			return list(ctx)
		}))
		return err
	})
	return took, err
}

// untilServed returns once a read succeeds, after a minute at most: a server reads the store first.
func untilServed(ctx context.Context, read func(context.Context) error) {
	for end := time.Now().Add(time.Minute); read(ctx) != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}
