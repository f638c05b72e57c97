package nodeagent

import (
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/tunnel"
)

// task is one thing the node does until its context ends, or until it is done. Its run returns after everything it started;
// its error ends the node.
type task struct {
	name string
	run  func(ctx context.Context) error
}

// begin runs tasks beside those that run.
func (a *Agent) begin(tasks []task) {
	for _, t := range tasks {
		a.group.Go(func() error {
			if err := t.run(a.ctx); err != nil && a.ctx.Err() == nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
}

// tasks are what every node does, whether an API answers or not.
func (a *Agent) tasks() []task {
	tasks := []task{
		{"observe", a.observe},
		{"relist", a.relistLoop},
		{"log keeper", a.logs.Run},
		{"losses", a.tellLosses},
		{"look", a.look},
		{"probes", a.probes.Run},
		{"volumes", a.refresh},
		{"storage", a.limitStorage},
		{"csi", a.csi.Run},
		{"pressure", a.guard},
		{"shutdown", a.awaitShutdown},
		{"resize", a.resizePods},
		{"tiers", a.keepTiers},
		{"images", a.collectImages},
		{"list", a.listImages},
		{"tags", a.trackImages},
		{"stats", a.summary.Run},
		{"claims", a.meter.Run},
		{"statuses", a.statuses.run},
		{"recall", a.cluster.Recall},
		{"keep", a.cluster.Keep},
		{"network", a.wire},
		{"services", a.serveServices},
		{"history", a.endLost},
		{"cluster", a.joinCluster},
	}
	if a.ingress != nil {
		tasks = append(tasks, task{"ingress", a.serveIngress})
	}
	if a.opts.Containerd == Managed {
		tasks = append(tasks, task{"containerd", a.keepContainerd})
	}
	return tasks
}

// joinedTasks are what a node does that has joined its cluster.
func (a *Agent) joinedTasks(api client.Interface, id register.Identity, link *register.Link,
	dial func(context.Context) (net.Conn, error)) []task {
	reporter := &register.Reporter{Client: api, Name: a.opts.NodeName, Labels: a.opts.Labels,
		Annotations: map[string]string{kinds.LocalPath: a.opts.localPathDir()}, Taints: a.opts.Taints,
		Marks: a.marks, State: a.nodeState, Changed: a.changed, Answered: link.Answered, Reported: a.metrics.report, Log: a.log,
		Stated:  func(stated corev1.ResourceList) { a.stated.Store(&stated) },
		Foreign: func(ctx context.Context) string { return a.foreign(ctx, api) }}
	return []task{
		{"report", reporter.Run},
		{"silence", a.answerSilence},
		{"drift", func(ctx context.Context) error { return a.tellDrift(ctx, api) }},
		{"rebuild", func(ctx context.Context) error { return a.offer(ctx, link) }},
		{"certificate", func(ctx context.Context) error { return a.renewCertificate(ctx, id, link) }},
		{"tunnel", func(ctx context.Context) error { return tunnel.Serve(ctx, a.log, dial, a.handler()) }},
		{"server list", a.learnServers},
		{"follow", func(ctx context.Context) error { return a.cluster.Follow(ctx, api) }},
		{"grow", a.growClaims},
		{"csi node", func(ctx context.Context) error { return a.csi.Report(ctx, csiNode{a, api}) }},
		{"local path", func(ctx context.Context) error { return a.localPath.Run(ctx, api) }},
	}
}
