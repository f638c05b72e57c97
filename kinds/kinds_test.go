package kinds

import (
	"reflect"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func TestKeysAsPaths(t *testing.T) {
	for path, key := range map[string]Key{
		"core/pods/shop/cart":        {Resource: "pods", Namespace: "shop", Name: "cart"},
		"core/namespaces/-/shop":     {Resource: "namespaces", Name: "shop"},
		"apps/deployments/shop/a.b":  {Group: "apps", Resource: "deployments", Namespace: "shop", Name: "a.b"},
		"lockstep.dev/sources/-/a":   {Group: "lockstep.dev", Resource: "sources", Name: "a"},
		"core/events/shop/cart.17f2": {Resource: "events", Namespace: "shop", Name: "cart.17f2"},
	} {
		if got := key.Path(); got != path {
			t.Errorf("%v has path %q, want %q", key, got, path)
		}
		if got, err := ParsePath(path); err != nil || got != key {
			t.Errorf("%q parses as %#v, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "core", "core/pods/shop", "core/pods/shop/", "/pods/shop/a"} {
		if key, err := ParsePath(path); err == nil {
			t.Errorf("%q parses as %#v", path, key)
		}
	}
}

func TestKeysInOrderAndInWords(t *testing.T) {
	keys := []Key{
		{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "cart"},
		{Resource: "pods", Namespace: "shop", Name: "b"},
		{Resource: "pods", Namespace: "shop", Name: "a"},
		{Resource: "namespaces", Name: "shop"},
		{Group: "example.com", Resource: "things", Name: "x"},
	}
	slices.SortFunc(keys, Key.Compare)
	var words []string
	for _, k := range keys {
		words = append(words, k.String())
	}
	want := []string{"Namespace shop", "Pod shop/a", "Pod shop/b", "Deployment shop/cart", "things.example.com x"}
	if !slices.Equal(words, want) {
		t.Errorf("got %q, want %q", words, want)
	}
}

func TestTableIsWhole(t *testing.T) {
	for _, k := range All {
		o := k.New()
		if Of(o) != k || ForGVK(k.GroupVersionKind) != k || ForResource(k.GroupResource()) != k {
			t.Errorf("%s is not found by its type, kind and resource", k.Kind)
		}
		if gvks, _, err := Scheme.ObjectKinds(o); err != nil || gvks[0] != k.GroupVersionKind {
			t.Errorf("the scheme knows %s as %v, %v", k.Kind, gvks, err)
		}
		if gvks, _, err := Scheme.ObjectKinds(k.NewList()); err != nil || gvks[0].Kind != k.Kind+"List" {
			t.Errorf("the scheme knows the list of %s as %v, %v", k.Kind, gvks, err)
		}
	}
}

// TestEveryColumnIsStated wants an answer of every kind: what is left out would be a no that nobody has thought of.
func TestEveryColumnIsStated(t *testing.T) {
	for _, k := range All {
		columns := reflect.ValueOf(k.Columns)
		for i := range columns.NumField() {
			switch column := columns.Type().Field(i); column.Name {
			case "Namespaced", "Declarable", "Status", "Conditions", "Categories": // the zero value is an answer
			default:
				if columns.Field(i).IsZero() {
					t.Errorf("%s does not state %s", k.Kind, column.Name)
				}
			}
		}
	}
}

// TestStatusFollows holds the rows to their types: only what has these fields, in this order, can be read in two halves.
func TestStatusFollows(t *testing.T) {
	for _, k := range All {
		var names []string
		for i := range k.object.NumField() {
			names = append(names, k.object.Field(i).Name)
		}
		if k.StatusFollows == Yes && !slices.Equal(names, []string{"TypeMeta", "ObjectMeta", "Spec", "Status"}) {
			t.Errorf("the status of %s does not follow: it has the fields %v", k.Kind, names)
		}
		if k.Status && k.status == nil {
			t.Errorf("%s has a status subresource and no field Status", k.Kind)
		}
	}
}

func TestWithStatus(t *testing.T) {
	o := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Paused: true}, Status: appsv1.DeploymentStatus{Replicas: 3}}
	o.Name = "cart"
	of := &appsv1.Deployment{Status: appsv1.DeploymentStatus{Replicas: 2}}
	got := Of(o).WithStatus(o, of).(*appsv1.Deployment)
	if got.Name != "cart" || !got.Spec.Paused || got.Status.Replicas != 2 || o.Status.Replicas != 3 {
		t.Errorf("got %+v of %+v", got, o)
	}
}

// TestPodsAndScales: a declarable kind that is a pod, or whose specification has a template of pods at any depth, says so, and
// one with replicas is scaled.
func TestPodsAndScales(t *testing.T) {
	makers, scaled := 0, 0
	for _, k := range All {
		spec, ok := k.object.FieldByName("Spec")
		if !ok || !k.Declarable {
			continue
		}
		meta, pods, path := k.Pods(k.New())
		if makes := templated(spec.Type) || k.Kind == "Pod"; makes != (meta != nil && pods != nil && path != "") {
			t.Errorf("%s makes pods: %v, and its row says %q", k.Kind, makes, path)
		} else if makes {
			makers++
		}
		if _, replicas := spec.Type.FieldByName("Replicas"); replicas != (k.Scale(k.New()) != nil) {
			t.Errorf("%s has replicas: %v, and its row says otherwise", k.Kind, replicas)
		} else if replicas {
			scaled++
		}
	}
	if makers < 3 || scaled < 2 {
		t.Errorf("%d kinds make pods, %d are scaled", makers, scaled)
	}
}

// templated says whether a struct has a template of pods, at any depth.
func templated(spec reflect.Type) bool {
	for i := range spec.NumField() {
		t := spec.Field(i).Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t == reflect.TypeFor[corev1.PodTemplateSpec]() || t.Kind() == reflect.Struct && templated(t) {
			return true
		}
	}
	return false
}

// TestTemplated: a Job has one, and a CronJob one of Jobs.
func TestTemplated(t *testing.T) {
	for spec, want := range map[reflect.Type]bool{
		reflect.TypeFor[batchv1.JobSpec](): true, reflect.TypeFor[batchv1.CronJobSpec](): true,
		reflect.TypeFor[corev1.ReplicationControllerSpec](): true, reflect.TypeFor[corev1.ServiceSpec](): false,
	} {
		if got := templated(spec); got != want {
			t.Errorf("%v has a template of pods: %v", spec, got)
		}
	}
}

// TestRulesOfHealth: each kind has a rule, which reads kinds that there are.
func TestRulesOfHealth(t *testing.T) {
	for _, k := range All {
		if k.Health.Judge == nil {
			t.Errorf("%s has no rule of health", k.Kind)
		}
		for _, r := range k.Health.Reads {
			if ForGVK(r.Of) == nil {
				t.Errorf("the health of %s reads %v, which is not in the table", k.Kind, r.Of)
			}
		}
	}
}

// TestControllersAreInTheTable: a controller works for objects of a kind that there is, and one that removes others says which
// it claims, and of how many there is a surplus.
func TestControllersAreInTheTable(t *testing.T) {
	for _, k := range All {
		for _, c := range k.Controllers {
			of := ForGVK(c.Of)
			switch {
			case of == nil:
				t.Errorf("%s has a controller of %v, which is not in the table", k.Kind, c.Of)
			case (c.Removes == RemovesNone) != (c.Selects == nil):
				t.Errorf("the controller of %s removes some of %s, and does not say which, or the other way round", of.Kind, k.Kind)
			case c.Removes == RemovesSurplus && of.Scale(of.New()) == nil:
				t.Errorf("the controller of %s removes a surplus of %s, and does not say how many it wants", of.Kind, k.Kind)
			}
		}
	}
}
