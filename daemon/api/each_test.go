package api

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// eachKind are objects of all kinds, in namespace shop: those of testCluster, others that do something, and bare ones of the
// rest.
func eachKind() []kinds.Object {
	objects := testCluster()
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "each"}}, Spec: testPod("", "", "").Spec,
	}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	one := int32(1)
	set := &appsv1.StatefulSet{ObjectMeta: named("shop", "set"), Spec: appsv1.StatefulSetSpec{
		Replicas: &one, ServiceName: "cart", Selector: selector, Template: template,
	}}
	set.Generation = 1
	set.Status = appsv1.StatefulSetStatus{
		ObservedGeneration: 1, Replicas: 1, ReadyReplicas: 1, CurrentReplicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1,
		CurrentRevision: "set-1", UpdateRevision: "set-1",
	}
	daemons := &appsv1.DaemonSet{ObjectMeta: named("shop", "daemons"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	daemons.Generation = 1
	daemons.Status = appsv1.DaemonSetStatus{
		ObservedGeneration: 1, DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberReady: 2,
		NumberAvailable: 2,
	}
	job := &batchv1.Job{ObjectMeta: named("shop", "job"), Spec: batchv1.JobSpec{Selector: selector, Template: template}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	complete := batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}
	job.Status = batchv1.JobStatus{Succeeded: 1, Conditions: []batchv1.JobCondition{complete}}
	event := &corev1.Event{
		ObjectMeta: named("shop", "job.1"), Reason: "Completed", Message: "Job completed", Type: corev1.EventTypeNormal, Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Job", APIVersion: "batch/v1", Namespace: "shop", Name: "job", UID: job.UID},
		FirstTimestamp: job.CreationTimestamp, LastTimestamp: job.CreationTimestamp,
	}
	objects = append(objects, set, daemons, job, event,
		&corev1.ReplicationController{ObjectMeta: named("shop", "controller"),
			Spec: corev1.ReplicationControllerSpec{Replicas: &one, Selector: template.Labels, Template: &template}},
		&corev1.PodTemplate{ObjectMeta: named("shop", "template"), Template: template},
		revision(set, "StatefulSet"), revision(daemons, "DaemonSet"),
		&corev1.Endpoints{ObjectMeta: named("shop", "cart"), Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // it is served
			Addresses: []corev1.EndpointAddress{{IP: "10.42.0.5"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 8080}},
		}}},
	)
	for _, k := range kinds.All {
		if slices.ContainsFunc(objects, func(o kinds.Object) bool {
			return kinds.Of(o) == k && (!k.Namespaced || o.GetNamespace() == "shop")
		}) {
			continue
		}
		bare := k.New()
		bare.SetName("bare")
		bare.SetUID(types.UID("bare-" + k.Resource))
		if k.Namespaced {
			bare.SetNamespace("shop")
		}
		objects = append(objects, bare)
	}
	for _, o := range objects {
		strategy.Default(o)
	}
	return objects
}

func revision(of metav1.Object, kind string) *appsv1.ControllerRevision {
	r := &appsv1.ControllerRevision{ObjectMeta: owned(named("shop", of.GetName()+"-1"), kind, of), Revision: 1}
	r.Labels = map[string]string{"app": "each"}
	const data = `{"spec":{"template":{"metadata":{"labels":{"app":"each"}},"spec":{"containers":[{"name":"main"}]}}}}`
	r.Data = runtime.RawExtension{Raw: []byte(data)}
	return r
}

// TestEachKindIsRead reads one object of each kind by every command of kubectl that reads.
func TestEachKindIsRead(t *testing.T) {
	s := newTestServer(t, nil, eachKind()...)
	var names, all []string
	for _, k := range kinds.All {
		if k.Resource == "secrets" {
			continue // no viewer's
		}
		resource := k.Resource + "." + k.Version + "." + k.Group
		all = append(all, resource)
		for _, o := range eachKind() {
			if kinds.Of(o) == k && (o.GetNamespace() == "" || o.GetNamespace() == "shop") {
				names = append(names, resource+"/"+o.GetName())
				break
			}
		}
	}
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, ok := s.kubectl(ctx, args...)
		if !ok {
			t.Errorf("kubectl %s fails:\n%s", strings.Join(args, " "), out)
		}
		return out
	}
	wide := run("get", strings.Join(all, ","), "-A", "-o", "wide")
	described := run(append([]string{"describe", "-n", "shop"}, names...)...)
	waited := run(append([]string{"wait", "-n", "shop", "--for=jsonpath={.metadata.name}", "--timeout=20s"}, names...)...)
	for _, name := range names {
		resource, name, _ := strings.Cut(name, "/")
		if !regexp.MustCompile(`(?m)/` + name + `( |$)`).MatchString(wide) {
			t.Errorf("get -o wide has no %s %s:\n%s", resource, name, wide)
		}
		if !regexp.MustCompile(`(?m)^Name: +` + name + `$`).MatchString(described) {
			t.Errorf("describe has no %s %s:\n%s", resource, name, described)
		}
		if !strings.Contains(waited, "/"+name+" condition met") {
			t.Errorf("wait has no %s %s:\n%s", resource, name, waited)
		}
	}
	printed(t, "kubectl-describe-controllers.txt",
		run("describe", "-n", "shop", "--show-events=true",
			"statefulset/set", "daemonset/daemons", "job/job", "replicationcontroller/controller"))
	for _, name := range []string{"deployment/cart", "statefulset/set", "daemonset/daemons"} {
		if out := run("rollout", "status", name, "-n", "shop", "--timeout=20s"); !strings.Contains(out, "successfully rolled out") &&
			!strings.Contains(out, "complete") {
			t.Errorf("rollout status %s says\n%s", name, out)
		}
		if out := run("rollout", "history", name, "-n", "shop"); name != "deployment/cart" && !strings.Contains(out, "\n1 ") {
			t.Errorf("rollout history %s says\n%s", name, out)
		}
	}
	if out := run("wait", "--for=condition=Complete", "job/job", "-n", "shop", "--timeout=20s"); !strings.Contains(out, "condition met") {
		t.Errorf("wait says\n%s", out)
	}
	if out := run("events", "--for", "job/job", "-n", "shop"); !strings.Contains(out, "Job completed") || strings.Contains(out, "Started") {
		t.Errorf("events of the job are\n%s", out)
	}
}

// TestEachKindIsExplained: kubectl explains each kind by all fields that its Go type has.
func TestEachKindIsExplained(t *testing.T) {
	s := newTestServer(t, nil)
	field := regexp.MustCompile(`(?m)^( +)([A-Za-z0-9]+)\t<`)
	for _, k := range kinds.All {
		t.Run(k.Resource, func(t *testing.T) {
			version := k.Version
			if k.Group != "" {
				version = k.Group + "/" + version
			}
			out, ok := s.kubectl(t.Context(), "explain", k.Resource, "--api-version", version, "--recursive")
			if !ok {
				t.Fatal(out)
			}
			told := map[string]bool{}
			for _, m := range field.FindAllStringSubmatch(out, -1) {
				told[m[2]] = true
			}
			old, ok := s.kubectl(t.Context(), "explain", k.Resource, "--api-version", version, "--output", "plaintext-openapiv2")
			if !ok || !strings.Contains(old, "KIND:     "+k.Kind) || !strings.Contains(old, "metadata\t<") {
				t.Errorf("by OpenAPI 2.0 it is explained as\n%s", old)
			}
			for name := range fieldsOf(reflect.TypeOf(k.New()), map[reflect.Type]bool{}) {
				if !told[name] {
					t.Errorf("no field %s is explained", name)
				}
			}
		})
	}
}

// fieldsOf are the names of all fields of a type and of what is below it.
func fieldsOf(typ reflect.Type, seen map[reflect.Type]bool) map[string]bool {
	for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, typ.Kind()) {
		typ = typ.Elem()
	}
	names := map[string]bool{}
	if typ.Kind() != reflect.Struct || seen[typ] || reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return names
	}
	seen[typ] = true
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name != "" {
			names[name] = true
		}
		maps.Copy(names, fieldsOf(f.Type, seen))
	}
	return names
}
