package nodeagent

import (
	"context"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/nodeagent/content"
	"lockstep/nodeagent/ingress"
	"lockstep/nodeagent/ingress/routes"
	"lockstep/nodeagent/pods"
)

func (a *Agent) newIngress() *ingress.Server {
	o := a.opts.Ingress
	secrets := &tlsSecrets{agent: a}
	s := ingress.New(ingress.Options{
		State: a.ingressState, Wake: a.cluster.Subscribe(), Secrets: secrets, HTTP: o.HTTP, HTTPS: o.HTTPS, Trusted: o.Trusted,
		Proxied: o.Proxied, AccessLog: o.AccessLog, Changed: a.reportNode, Log: a.log, Registerer: a.opts.Metrics,
	})
	secrets.store = content.New(content.Options{Dir: filepath.Join(a.opts.agentDir(), "ingress"), API: a.api, Log: a.log,
		Changed: func(r pods.Reference) { s.SecretChanged(r.Namespace, r.Name) }})
	a.tlsSecrets = secrets.store
	return s
}

// serveIngress serves Ingresses until ctx ends, once the cluster is known.
func (a *Agent) serveIngress(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.cluster.Known():
	}
	defer a.tlsSecrets.Wait()
	return a.ingress.Run(ctx)
}

// ingressState is what there is to serve here.
func (a *Agent) ingressState() routes.Input {
	known := a.cluster.Snapshot()
	in := routes.Input{Services: known.Services, Slices: known.Slices}
	if n := known.Node(a.opts.NodeName); n != nil {
		in.Ingresses = routes.Chosen(known.Ingresses, known.Classes, n.Labels)
	}
	return in
}

// tlsSecrets are the Secrets that Ingresses have for TLS. They are kept as those of pods are, so that a node that is cut off goes on
// showing the right certificates, also after a reboot.
type tlsSecrets struct {
	agent *Agent
	store *content.Store
}

// Follow is that of ingress.Secrets.
func (t *tlsSecrets) Follow(ctx context.Context, names map[string]bool) {
	wanted := map[pods.Reference]bool{}
	for name := range names {
		namespace, short, _ := strings.Cut(name, "/")
		wanted[pods.Reference{Resource: pods.Secrets, Namespace: namespace, Name: short}] = true
	}
	t.store.Follow(ctx, wanted)
	if s := t.agent.cluster.Snapshot(); s != nil && s.Complete { // else they may be those of before
		t.store.Forget(wanted)
	}
}

// Secret is that of ingress.Secrets.
func (t *tlsSecrets) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return t.store.Latest().Secret(ctx, namespace, name)
}
