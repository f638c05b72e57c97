// Command prometheus finds what there is to scrape by Prometheus' own discovery, as a server of it does in a pod, and says what that
// is.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

const usage = "prometheus PORT ROLE…   answer on the port with the targets of each role of kubernetes_sd_configs, and their labels"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New(usage)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	registry := prometheus.NewRegistry()
	metrics, err := discovery.CreateAndRegisterSDMetrics(registry)
	if err != nil {
		return err
	}
	manager := discovery.NewManager(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)), registry, metrics)
	if manager == nil {
		return errors.New("there is no discovery")
	}
	jobs := map[string]discovery.Configs{}
	for _, role := range args[1:] {
		jobs[role] = discovery.Configs{&kubernetes.SDConfig{
			Role: kubernetes.Role(role), HTTPClientConfig: config.DefaultHTTPClientConfig,
			AttachMetadata: kubernetes.AttachMetadataConfig{Node: true},
		}}
	}
	if err := manager.ApplyConfig(jobs); err != nil {
		return err
	}
	var found targets
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { _ = manager.Run() }) // it ends with ctx, and says so
	all.Go(func() {
		for {
			select {
			case groups := <-manager.SyncCh():
				found.set(groups)
			case <-ctx.Done():
				return
			}
		}
	})
	server := &http.Server{Addr: ":" + args[0], ReadHeaderTimeout: 10 * time.Second, Handler: &found}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// targets are those that were found last, by job.
type targets struct {
	mu     sync.Mutex
	groups map[string][]*targetgroup.Group
}

func (t *targets) set(groups map[string][]*targetgroup.Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups = groups
}

// ServeHTTP implements http.Handler.
func (t *targets) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for job, groups := range t.groups {
		for _, group := range groups {
			for _, target := range group.Targets {
				lines = append(lines, fmt.Sprintf("%s %v\n", job, group.Labels.Merge(target)))
			}
		}
	}
	slices.Sort(lines)
	_, _ = fmt.Fprint(w, strings.Join(lines, ""))
}
