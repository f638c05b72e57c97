// Package reconcilers lists the control loops of a cluster.
package reconcilers

import (
	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/reconcilers/attachdetach"
	"lockstep/reconcilers/autoscaler"
	"lockstep/reconcilers/cluster"
	"lockstep/reconcilers/clusterroles"
	"lockstep/reconcilers/cronjob"
	"lockstep/reconcilers/daemonset"
	"lockstep/reconcilers/deployment"
	"lockstep/reconcilers/disruption"
	"lockstep/reconcilers/drain"
	"lockstep/reconcilers/endpoints"
	"lockstep/reconcilers/endpointslice"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/ephemeral"
	"lockstep/reconcilers/garbagecollection"
	"lockstep/reconcilers/ingress"
	"lockstep/reconcilers/job"
	"lockstep/reconcilers/localpath"
	"lockstep/reconcilers/mirror"
	"lockstep/reconcilers/namespace"
	"lockstep/reconcilers/nodecidr"
	"lockstep/reconcilers/nodelifecycle"
	"lockstep/reconcilers/persistentvolume"
	"lockstep/reconcilers/replicaset"
	"lockstep/reconcilers/resourcequota"
	"lockstep/reconcilers/rootca"
	"lockstep/reconcilers/serviceaccount"
	"lockstep/reconcilers/serviceip"
	"lockstep/reconcilers/statefulset"
	"lockstep/reconcilers/tainteviction"
	"lockstep/reconcilers/ttl"
	"lockstep/store/view"
)

// Options are what the loops need to know of the cluster.
type Options struct {
	// Settings of the cluster; what is not given is settings.Default's.
	Settings settings.Settings
	// CA is the cluster's CA in PEM, which every namespace is given; empty: none is.
	CA string
	// Noted says that whoever states a Job knows that it has ended, so that it may be removed; nil: nobody has to know.
	Noted func(*view.View, kinds.Key) bool
	// Stated says that a source states an object; nil: none does.
	Stated func(*view.View, kinds.Key) bool
	// Gauge tells autoscalers what pods use; nil: nothing is measured.
	Gauge autoscaler.Gauge
}

func (o Options) withDefaults() Options {
	o.Settings = o.Settings.Or(settings.Default())
	return o
}

// All returns every control loop that engine.New runs. The scheduler is not among them: it decides about all pods
// together and keeps state.
func All(o Options) []engine.Reconciler {
	o = o.withDefaults()
	set := o.Settings
	return []engine.Reconciler{
		cluster.New(cluster.Options{API: set.API(), DNS: set.DNS(), Services: set.ServiceCIDRs, Stated: o.Stated}),
		clusterroles.Defaults(),
		clusterroles.Aggregation(),
		namespace.New(),
		serviceaccount.New(),
		rootca.New(o.CA),
		resourcequota.New(),
		nodecidr.New(set.PodCIDRs),
		nodelifecycle.New(),
		nodelifecycle.Evictions(),
		tainteviction.New(),
		drain.New(),
		serviceip.New(serviceip.Options{CIDRs: set.ServiceCIDRs, NodePorts: set.NodePorts, Reserved: set.Reserved()}),
		persistentvolume.Claims(),
		persistentvolume.Volumes(),
		persistentvolume.ClaimProtection(),
		persistentvolume.VolumeProtection(),
		attachdetach.New(),
		attachdetach.Nodes(),
		localpath.Provisioner(),
		localpath.Reclaimer(o.Stated),
		deployment.New(),
		replicaset.New(),
		replicaset.Controllers(),
		statefulset.New(),
		ephemeral.New(),
		autoscaler.New(o.Gauge),
		cronjob.New(),
		job.New(),
		ttl.New(o.Noted),
		daemonset.New(),
		disruption.New(),
		endpointslice.New(),
		endpoints.New(o.Stated),
		ingress.New(),
		mirror.New(),
		garbagecollection.Owners(),
		garbagecollection.Pods(),
		garbagecollection.FinishedPods(garbagecollection.FinishedLimit),
	}
}
