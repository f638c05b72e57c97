package reconcilers

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

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
	"lockstep/reconcilers/ephemeral"
	"lockstep/reconcilers/garbagecollection"
	"lockstep/reconcilers/ingress"
	"lockstep/reconcilers/job"
	"lockstep/reconcilers/localpath"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/looptest"
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

// decided is a reconciler by the folder of its cases.
func decided() map[string]loop.Reconciler {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, text := range texts {
			out = append(out, netip.MustParsePrefix(text))
		}
		return out
	}
	addresses := serviceip.Options{
		CIDRs: prefixes("10.43.0.0/16"), NodePorts: [2]int{30000, 32767},
		Reserved: map[netip.Addr]string{netip.MustParseAddr("10.43.0.10"): "kube-system/kube-dns"},
	}
	dual := addresses
	dual.CIDRs = prefixes("10.43.0.0/16", "fd00:43::/108")
	out := map[string]loop.Reconciler{
		"cluster/testdata": cluster.New(cluster.Options{
			API: []netip.Addr{netip.MustParseAddr("10.43.0.1")},
			DNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, Services: prefixes("10.43.0.0/16"),
		}),
		"attachdetach/testdata":                      attachdetach.New(),
		"attachdetach/testdata/nodes":                attachdetach.Nodes(),
		"autoscaler/testdata":                        autoscaler.New(saidByUID),
		"clusterroles/testdata":                      clusterroles.Aggregation(),
		"clusterroles/testdata/defaults":             clusterroles.Defaults(),
		"daemonset/testdata":                         daemonset.New(),
		"deployment/testdata":                        deployment.New(),
		"disruption/testdata":                        disruption.New(),
		"drain/testdata":                             drain.New(),
		"endpoints/testdata":                         endpoints.New(nil),
		"endpoints/testdata/stated":                  endpoints.New(func(*view.View, kinds.Key) bool { return true }),
		"endpointslice/testdata":                     endpointslice.New(),
		"ephemeral/testdata":                         ephemeral.New(),
		"ingress/testdata":                           ingress.New(),
		"mirror/testdata":                            mirror.New(),
		"garbagecollection/testdata/finished":        garbagecollection.FinishedPods(1),
		"garbagecollection/testdata/owners":          garbagecollection.Owners(),
		"garbagecollection/testdata/pods":            garbagecollection.Pods(),
		"cronjob/testdata":                           cronjob.New(),
		"job/testdata":                               job.New(),
		"ttl/testdata":                               ttl.New(nil),
		"resourcequota/testdata":                     resourcequota.New(),
		"namespace/testdata":                         namespace.New(),
		"nodecidr/testdata":                          nodecidr.New(prefixes("10.42.0.0/22")),
		"nodelifecycle/testdata":                     nodelifecycle.New(),
		"nodelifecycle/testdata/evictions":           nodelifecycle.Evictions(),
		"tainteviction/testdata":                     tainteviction.New(),
		"localpath/testdata/provisioner":             localpath.Provisioner(),
		"localpath/testdata/reclaimer":               localpath.Reclaimer(nil),
		"persistentvolume/testdata/claims":           persistentvolume.Claims(),
		"persistentvolume/testdata/volumes":          persistentvolume.Volumes(),
		"persistentvolume/testdata/claimprotection":  persistentvolume.ClaimProtection(),
		"persistentvolume/testdata/volumeprotection": persistentvolume.VolumeProtection(),
		"replicaset/testdata":                        replicaset.New(),
		"replicaset/testdata/controllers":            replicaset.Controllers(),
		"rootca/testdata":                            rootca.New("the cluster's CA\n"),
		"serviceaccount/testdata":                    serviceaccount.New(),
		"statefulset/testdata":                       statefulset.New(),
		"serviceip/testdata":                         serviceip.New(addresses),
		"serviceip/testdata/dual":                    serviceip.New(dual),
	}
	maps.Copy(out, askedParts())
	return out
}

// TestDecide decides the cases that lie beside the reconcilers, all in one program: to link one with Kubernetes' rules takes
// longer than all the cases do.
func TestDecide(t *testing.T) {
	for dir, r := range decided() {
		t.Run(dir, func(t *testing.T) { looptest.Golden(t, dir, r) })
	}
	cases, err := filepath.Glob("*/testdata")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("*/testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(cases, more...) {
		held, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
		if info, statErr := os.Stat(dir); err != nil || statErr != nil || !info.IsDir() || len(held) == 0 {
			continue
		}
		if _, listed := decided()[dir]; !listed {
			t.Errorf("nobody decides the cases in %s", dir)
		}
	}
	with := map[string]bool{}
	for _, r := range decided() {
		with[r.Name] = true
	}
	for _, r := range All(Options{}) {
		if !with[r.Name] {
			t.Errorf("there are no cases for %s", r.Name)
		}
	}
}
