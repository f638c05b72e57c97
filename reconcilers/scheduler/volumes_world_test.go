package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"lockstep/kinds"
)

// maker is a CSI driver.
const maker = "maker.example.com"

// someDriverObject is what is told of a driver: by itself, by its nodes, and of its room.
func someDriverObject(r *rand.Rand) kinds.Object {
	name := metav1.ObjectMeta{Name: fmt.Sprint("n", r.IntN(3))}
	switch r.IntN(4) {
	case 0:
		o := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: maker}}
		o.Spec.StorageCapacity = new(r.IntN(3) > 0)
		o.Spec.PreventPodSchedulingIfMissing = new(r.IntN(3) == 0)
		return o
	case 1:
		driver := storagev1.CSINodeDriver{Name: one(r, maker, maker, "other.example.com"), NodeID: "id"}
		if r.IntN(4) > 0 {
			driver.Allocatable = &storagev1.VolumeNodeResources{Count: new(int32(r.IntN(3)))}
		}
		return &storagev1.CSINode{ObjectMeta: name, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{driver}}}
	case 2:
		pv := fmt.Sprint("pv", r.IntN(5))
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("va", r.IntN(4))},
			Spec: storagev1.VolumeAttachmentSpec{Attacher: maker, NodeName: name.Name,
				Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}}
	}
	o := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("room", r.IntN(4))},
		// All have as much: of several kube-scheduler takes any.
		StorageClassName: one(r, "made", "made", "now"), Capacity: resource.NewQuantity(2<<30, resource.BinarySI)}
	if r.IntN(4) > 0 {
		o.NodeTopology = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": fmt.Sprint("z", r.IntN(3))}}
	}
	if r.IntN(3) == 0 {
		o.MaximumVolumeSize = resource.NewQuantity(1<<30, resource.BinarySI)
	}
	return o
}

// refusals are parts of all that pods with volumes are told.
func refusals() []string {
	return []string{
		"not found", "non-existent pers", "being deleted", "not created for", "unbound immediate", "ReadWriteOncePod", volumeElsewhere,
		noVolumeToBind, noRoomForVolume, tooManyVolumes, "not installed", "no available volume zone",
	}
}

// volumesOracle asks plugins of kube-scheduler one after another, as it does: factory, arguments, and again.
func (w *world) volumesOracle(t *testing.T, plugins ...any) (out []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var objects []runtime.Object
	for _, o := range w.others {
		objects = append(objects, o)
	}
	snapshot := cache.NewSnapshot(w.placed, w.nodes)
	state := framework.NewCycleState()
	var infos []fwk.NodeInfo
	for _, n := range w.nodes {
		info, err := snapshot.NodeInfos().Get(n.Name)
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	var filters []fwk.FilterPlugin
	var scorer fwk.ScorePlugin
	for i := 0; i < len(plugins); i += 2 {
		args, _ := plugins[i+1].(runtime.Object)
		plugin := pluginOf(ctx, t, plugins[i].(frameworkruntime.PluginFactory), args, snapshot, objects)
		_, status := plugin.(fwk.PreFilterPlugin).PreFilter(ctx, state, w.pod, infos)
		switch {
		case status.IsSkip():
		case !status.IsSuccess():
			return []string{status.Message()}
		default:
			filters = append(filters, plugin.(fwk.FilterPlugin))
			if s, scores := plugin.(fwk.ScorePlugin); scores {
				scorer = s
			}
		}
	}
	for _, info := range infos {
		text := ""
		for _, f := range filters {
			if text = f.Filter(ctx, state, w.pod, info).Message(); text != "" {
				break
			}
		}
		if text == "" {
			score := int64(0)
			if scorer != nil {
				score, _ = scorer.Score(ctx, state, w.pod, info)
			}
			text = fmt.Sprint("score ", score)
		}
		out = append(out, text)
	}
	return out
}

// pluginOf makes a plugin of kube-scheduler that looks at objects.
func pluginOf(ctx context.Context, t *testing.T, make frameworkruntime.PluginFactory, args runtime.Object, nodes fwk.SharedLister,
	objects []runtime.Object) fwk.Plugin {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	handle, err := frameworkruntime.NewFramework(ctx, nil, nil, frameworkruntime.WithSnapshotSharedLister(nodes),
		frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(factory.Storage().V1().CSINodes().Lister())))
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := make(ctx, args, handle)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return plugin
}
