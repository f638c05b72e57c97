package api

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	usage "k8s.io/metrics/pkg/apis/metrics"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/daemon/api/watch"
	ask "lockstep/daemon/usage"
	"lockstep/kinds"
)

// usageVersions are those in which metrics.k8s.io is served, the preferred one first.
var usageVersions = []apischema.GroupVersion{metricsv1.SchemeGroupVersion, metricsv1beta1.SchemeGroupVersion}

// usageResource is one of metrics.k8s.io: what pods or nodes use, by the name of whose they are. Nothing of it is stored: the
// agents are asked.
type usageResource struct {
	resource   string
	kind       string
	namespaced bool
	read       usageStorage
}

type usageStorage interface {
	rest.Getter
	rest.Lister
}

func (s *server) usageTable() []usageResource {
	return []usageResource{
		{"nodes", "NodeMetrics", false, nodeUsage{s, tableOfUsage{}}},
		{"pods", "PodMetrics", true, podUsage{s, tableOfUsage{}}},
	}
}

func (s *server) usages() map[route]http.Handler {
	out := map[route]http.Handler{}
	for _, gv := range usageVersions {
		for _, r := range s.usageTable() {
			gvr := gv.WithResource(r.resource)
			scope := scopeFor(gv.WithKind(r.kind), gvr, !r.namespaced)
			scope.TableConvertor = r.read
			out[route{gvr: gvr, verb: "get"}] = handlers.GetResource(r.read, scope)
			list := handlers.ListResource(r.read, nil, scope, false, minWatch)
			out[route{gvr: gvr, verb: "list"}] = list
			out[route{gvr: gvr, verb: "watch"}] = list // which says that there is none
		}
	}
	return out
}

// podUsage answers what pods use: those that run, and that their node has measured twice.
type podUsage struct {
	*server
	tableOfUsage
}

// New implements rest.Storage.
func (podUsage) New() runtime.Object { return &usage.PodMetrics{} }

// NewList implements rest.Lister.
func (podUsage) NewList() runtime.Object { return &usage.PodMetricsList{} }

// Get implements rest.Getter.
func (p podUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	list, err := p.list(ctx, &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(usage.Resource("pods"), request.NamespaceValue(ctx)+"/"+name)
	}
	return &list.Items[0], nil
}

// List implements rest.Lister.
func (p podUsage) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	return p.list(ctx, opts)
}

func (p podUsage) list(ctx context.Context, opts *metainternalversion.ListOptions) (*usage.PodMetricsList, error) {
	f, err := watch.NewFilter(kinds.For[*corev1.Pod](), request.NamespaceValue(ctx), opts)
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for o := range f.Objects(p.hub.View()) {
		pods = append(pods, o.(*corev1.Pod))
	}
	used, err := p.tellers().Pods(ctx, slices.Values(pods))
	if err != nil {
		return nil, nobodyWaits(err)
	}
	list := &usage.PodMetricsList{Items: []usage.PodMetrics{}}
	for _, pod := range pods {
		one := used[pod.UID]
		if one == nil {
			continue
		}
		one.ObjectMeta = metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, CreationTimestamp: metav1.NewTime(p.now()),
		}
		var item usage.PodMetrics
		if err := scheme.Convert(one, &item, nil); err != nil {
			return nil, err
		}
		list.Items = append(list.Items, item)
	}
	slices.SortFunc(list.Items, func(a, b usage.PodMetrics) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list, nil
}

// nodeUsage answers what nodes use: those that have measured themselves twice.
type nodeUsage struct {
	*server
	tableOfUsage
}

// New implements rest.Storage.
func (nodeUsage) New() runtime.Object { return &usage.NodeMetrics{} }

// NewList implements rest.Lister.
func (nodeUsage) NewList() runtime.Object { return &usage.NodeMetricsList{} }

// Get implements rest.Getter.
func (n nodeUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	list, err := n.list(ctx, &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(usage.Resource("nodes"), name)
	}
	return &list.Items[0], nil
}

// List implements rest.Lister.
func (n nodeUsage) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	return n.list(ctx, opts)
}

func (n nodeUsage) list(ctx context.Context, opts *metainternalversion.ListOptions) (*usage.NodeMetricsList, error) {
	f, err := watch.NewFilter(kinds.For[*corev1.Node](), "", opts)
	if err != nil {
		return nil, err
	}
	nodes := map[string]kinds.Object{}
	for o := range f.Objects(n.hub.View()) {
		nodes[o.GetName()] = o
	}
	used, err := n.tellers().Nodes(ctx, maps.Keys(nodes))
	if err != nil {
		return nil, nobodyWaits(err)
	}
	list := &usage.NodeMetricsList{Items: []usage.NodeMetrics{}}
	for name, one := range used {
		one.ObjectMeta = metav1.ObjectMeta{
			Name: name, Labels: nodes[name].GetLabels(), CreationTimestamp: metav1.NewTime(n.now()),
		}
		var item usage.NodeMetrics
		if err := scheme.Convert(one, &item, nil); err != nil {
			return nil, err
		}
		list.Items = append(list.Items, item)
	}
	slices.SortFunc(list.Items, func(a, b usage.NodeMetrics) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// tellers are the agents, which tell what they use.
func (s *server) tellers() ask.Agents { return ask.Agents{Transport: s.transport, Log: s.log} }

func nobodyWaits(err error) error {
	return apierrors.NewTimeoutError("nobody waits for the list: "+err.Error(), retryAfter)
}

// tableOfUsage has metrics-server's columns: the name, what is used, and over what time.
type tableOfUsage struct{}

// ConvertToTable implements rest.TableConvertor.
func (tableOfUsage) ConvertToTable(_ context.Context, o, _ runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "cpu", Type: "string", Format: "quantity"},
		{Name: "memory", Type: "string", Format: "quantity"},
		{Name: "Window", Type: "string", Format: "duration"},
	}}
	add := func(o runtime.Object, name string, window metav1.Duration, used ...corev1.ResourceList) {
		sum := func(of corev1.ResourceName) string {
			total := used[0][of].DeepCopy()
			for _, more := range used[1:] {
				total.Add(more[of])
			}
			return total.String()
		}
		table.Rows = append(table.Rows, metav1.TableRow{
			Cells:  []any{name, sum(corev1.ResourceCPU), sum(corev1.ResourceMemory), window.Duration.String()},
			Object: runtime.RawExtension{Object: o},
		})
	}
	pod := func(p *usage.PodMetrics) {
		used := []corev1.ResourceList{{}}
		for _, c := range p.Containers {
			used = append(used, c.Usage)
		}
		add(p, p.Name, p.Window, used...)
	}
	switch o := o.(type) {
	case *usage.PodMetrics:
		pod(o)
	case *usage.PodMetricsList:
		for i := range o.Items {
			pod(&o.Items[i])
		}
	case *usage.NodeMetrics:
		add(o, o.Name, o.Window, o.Usage)
	case *usage.NodeMetricsList:
		for i := range o.Items {
			add(&o.Items[i], o.Items[i].Name, o.Items[i].Window, o.Items[i].Usage)
		}
	}
	return table, nil
}
