package csi

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"lockstep/internal/sleep"
	"lockstep/kinds"
)

const (
	// reportEvery is how often the CSINode is compared though nothing has changed: somebody may have deleted it.
	reportEvery = 5 * time.Minute
	// reportRetry is the pause after a failure.
	reportRetry = time.Second
	// reportTimeout bounds reading and writing it.
	reportTimeout = 10 * time.Second
	// maxLimit is the largest count that a CSINode can state.
	maxLimit = 1<<31 - 1
)

// NodeIDs is the annotation of a Node with what drivers call it, as the kubelet writes it.
const NodeIDs = "csi.volume.kubernetes.io/nodeid"

// API reads and writes the node's CSINode; apierrors.IsNotFound says that there is none.
type API interface {
	Get(ctx context.Context) (*storagev1.CSINode, error)
	Create(ctx context.Context, n *storagev1.CSINode) error
	Update(ctx context.Context, n *storagev1.CSINode) error
	// NodeUID is of the Node; empty: it is not known yet.
	NodeUID() types.UID
}

// Marks are the labels and annotations of the Node that drivers ask for.
func (m *Manager) Marks() (labels, annotations map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	labels, ids := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m.drivers)) {
		maps.Copy(labels, allowed(m.drivers[name].topology))
		ids[name] = m.drivers[name].id
	}
	if len(ids) == 0 {
		return nil, nil
	}
	data, _ := json.Marshal(ids) // strings always can be
	return labels, map[string]string{NodeIDs: string(data)}
}

// allowed are the labels that a node may have for its drivers: whole ones, and of those that Kubernetes keeps for itself what a
// kubelet may set.
func allowed(topology map[string]string) map[string]string {
	out := maps.Clone(topology)
	maps.DeleteFunc(out, func(key, value string) bool {
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			return true
		}
		prefix, _, _ := strings.Cut(key, "/")
		return slices.ContainsFunc([]string{"kubernetes.io", "k8s.io", "lockstep.dev"}, func(reserved string) bool {
			return (prefix == reserved || strings.HasSuffix(prefix, "."+reserved)) && !kubeletapis.IsKubeletLabel(key)
		})
	})
	return out
}

// wanted is the node's CSINode as it should be, from what it is.
func (m *Manager) wanted(old *storagev1.CSINode, owner types.UID) *storagev1.CSINode {
	out := old.DeepCopy()
	out.Name = m.opts.Node
	out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: m.opts.Node, UID: owner}}
	out.Spec.Drivers = []storagev1.CSINodeDriver{}
	m.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(m.drivers)) {
		d := m.drivers[name]
		one := storagev1.CSINodeDriver{Name: name, NodeID: d.id, TopologyKeys: slices.Sorted(maps.Keys(d.topology))}
		if d.most > 0 {
			count := int32(min(d.most, maxLimit))
			one.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
		}
		out.Spec.Drivers = append(out.Spec.Drivers, one)
	}
	m.mu.Unlock()
	if controllers := strings.Join(m.Controllers(), ","); controllers != "" {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[kinds.CSIControllers] = controllers
	} else {
		delete(out.Annotations, kinds.CSIControllers)
	}
	return out
}

// Report keeps the node's CSINode as its drivers are, until ctx ends.
func (m *Manager) Report(ctx context.Context, api API) error {
	told := ""
	for ctx.Err() == nil {
		uid := api.NodeUID()
		if uid == "" { // nothing has been read from the cluster
			sleep.For(ctx, reportRetry)
			continue
		}
		if err := m.report(ctx, api, uid); err != nil {
			if told != err.Error() && ctx.Err() == nil {
				m.opts.Log.Warn("cannot report CSI drivers", "error", err)
			}
			told = err.Error()
			sleep.For(ctx, reportRetry)
			continue
		}
		told = ""
		t := time.NewTimer(reportEvery)
		select {
		case <-ctx.Done():
		case <-m.news:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

func (m *Manager) report(ctx context.Context, api API, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	old, err := api.Get(ctx)
	if apierrors.IsNotFound(err) {
		return api.Create(ctx, m.wanted(&storagev1.CSINode{}, uid))
	}
	if err != nil {
		return err
	}
	want := m.wanted(old, uid)
	old = old.DeepCopy()
	slices.SortFunc(old.Spec.Drivers, func(a, b storagev1.CSINodeDriver) int { return cmp.Compare(a.Name, b.Name) })
	if equality.Semantic.DeepEqual(old, want) {
		return nil
	}
	return api.Update(ctx, want)
}
