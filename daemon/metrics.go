package daemon

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// withEtcd adds to our own metrics those of the embedded etcd, which registers them with the process's registry. What
// else is there, of the Go runtime and of libraries, we have or do not mean.
func withEtcd(own prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.Gatherers{own, prometheus.GathererFunc(only("etcd_", prometheus.DefaultGatherer.Gather))}
}

// only keeps the families whose names begin with prefix.
func only[F interface{ GetName() string }](prefix string, gather func() ([]F, error)) func() ([]F, error) {
	return func() ([]F, error) {
		all, err := gather()
		var out []F
		for _, f := range all {
			if strings.HasPrefix(f.GetName(), prefix) {
				out = append(out, f)
			}
		}
		return out, err
	}
}

// term is a registerer of what lives for one leader's term: a later term's metrics replace those of the one before.
type term struct{ *prometheus.Registry }

func termRegistry(r *prometheus.Registry) prometheus.Registerer { return term{r} }

// Register implements prometheus.Registerer.
func (t term) Register(c prometheus.Collector) error {
	err := t.Registry.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		t.Unregister(already.ExistingCollector)
		err = t.Registry.Register(c)
	}
	return err
}

// MustRegister implements prometheus.Registerer.
func (t term) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		if err := t.Register(c); err != nil {
			panic(err)
		}
	}
}
