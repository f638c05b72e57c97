package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/util/parsers"
	sigsjson "sigs.k8s.io/json"

	"lockstep/internal/near"
	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
)

const tooManyPods = "%d pods are more than the limit of %d"

// neverComes says that there is no such day, as the 31st of February.
func neverComes(j *batchv1.CronJob) bool {
	s, err := parsers.ParseCronScheduleWithPanicRecovery(j.Spec.Schedule)
	return err == nil && s.Next(time.Unix(0, 0)).IsZero()
}

// reading is what one object of a file came to, before the file has a name and before kinds are ignored.
type reading struct {
	gvk    schema.GroupVersionKind // empty where the value is not an object
	object *Object                 // nil where errs has an error
	errs   []*Error                // without File
	// unserved says that no kind of Lockstep is meant.
	unserved bool
}

func (r *reading) fail(line, column int, field, format string, args ...any) {
	r.errs = append(r.errs, &Error{Line: line, Column: column, Field: field, Message: plain.Text(fmt.Sprintf(format, args...))})
}

// counted bounds the errors that are looked for in one file: enough to say that there are many.
const counted = 10 * MaxErrors

// read turns a file's bytes into its objects or their errors. It is pure: the name only tells JSON and kustomization
// files from others. It stops early, when ctx ends, and when it has found more errors or objects than are let in.
func read(ctx context.Context, name string, data []byte) []reading {
	var readings []reading
	ordinal, objects, errs := 0, 0, 0
	add := func(r reading) bool {
		readings = append(readings, r)
		errs += len(r.errs)
		if r.object != nil {
			objects++
		}
		return errs < counted && objects <= MaxObjects && ctx.Err() == nil
	}
	for v := range parse(ctx, name, data) {
		if v.err != nil {
			r := reading{}
			r.fail(v.err.line, v.err.column, "", "%s", v.err.message)
			if !add(r) {
				return readings
			}
			continue
		}
		var lists []reading
		found := flatten(v.root, func(list *node) {
			if r := readList(list); len(r.errs) > 0 {
				lists = append(lists, r)
			}
		})
		for _, r := range lists {
			if !add(r) {
				return readings
			}
		}
		for _, n := range found {
			r := readObject(name, n)
			if r.object != nil {
				r.object.ordinal = ordinal
			}
			ordinal++
			if !add(r) {
				return readings
			}
		}
	}
	return readings
}

// flatten returns a value's objects: the value itself, or a List's items; it shows each List to visit. The items of a
// list of one kind (PodList) may leave out their apiVersion and kind, as in Kubernetes' API.
func flatten(n *node, visit func(*node)) []*node {
	kind := n.get("kind").string()
	items := n.get("items")
	if !strings.HasSuffix(kind, "List") || items == nil || items.shape != list {
		return []*node{n}
	}
	visit(n)
	var out []*node
	for _, item := range items.items {
		if item.shape == mapping && kind != "List" && item.get("kind") == nil {
			at := entry{line: item.line, column: item.column}
			at.name, at.value = "kind", &node{shape: text, text: strings.TrimSuffix(kind, "List")}
			item.fields = append(item.fields, at)
			if v := n.get("apiVersion"); v != nil && item.get("apiVersion") == nil {
				at.name, at.value = "apiVersion", v
				item.fields = append(item.fields, at)
			}
		}
		out = append(out, flatten(item, visit)...)
	}
	return out
}

// readList checks what a List has beside its items.
func readList(n *node) (r reading) {
	var found []slip
	for i := range n.fields {
		e := &n.fields[i]
		switch {
		case e.again > 0:
			found = append(found, duplicateField(e, e.name))
		case !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, e.name):
			s, _ := unknownField(e, e.name, nil)
			found = append(found, s)
		}
		if len(found) == counted {
			break
		}
	}
	for _, p := range strictly(found) {
		r.fail(p.line, p.column, "", "%s", p.message)
	}
	return r
}

// readObject reads one object.
func readObject(name string, n *node) (r reading) {
	if n.shape != mapping {
		r.fail(n.line, n.column, "", "want an object, a mapping with apiVersion and kind, got %v", n.shape)
		return r
	}
	if e := n.entry("sops"); e != nil && e.value.shape == mapping {
		r.gvk = schema.FromAPIVersionAndKind(n.get("apiVersion").string(), n.get("kind").string())
		r.unserved = unserved(r.gvk)
		r.fail(e.line, e.column, "sops",
			"the document is encrypted with SOPS, which is not supported yet: keep what it holds out of the source, "+
				"or have something decrypt it before the push")
		return r
	}
	k := r.envelope(name, n)
	if k == nil {
		return r
	}
	dropServerSet(k, n)
	key, who := identify(k, n)

	c := &checker{hidden: k.Confidential == kinds.Yes}
	c.name(n)
	c.value(n, reflect.TypeOf(k.New()), "", true)
	object := c.build(k, n)
	for _, p := range append(strictly(c.strict), c.problems...) {
		r.errs = append(r.errs, &Error{Line: p.line, Column: p.column, Object: who, Field: p.field, Message: p.message})
	}
	if len(r.errs) > 0 || object == nil {
		return r
	}
	object.Key, object.Line, object.Column, object.rank = key, n.line, n.column, slices.Index(kinds.All, k)
	r.object = object
	return r
}

// envelope finds the kind; nil where it is not one that a manifest can state.
func (r *reading) envelope(name string, n *node) *kinds.Kind {
	version, kind := n.entry("apiVersion"), n.entry("kind")
	if kustomization(name) && (kind == nil || version == nil) {
		r.gvk = schema.GroupVersionKind{Group: kustomize, Version: "v1beta1", Kind: "Kustomization"}
	} else {
		for _, required := range []struct {
			name string
			*entry
		}{{"apiVersion", version}, {"kind", kind}} {
			switch e := required.entry; {
			case e == nil:
				r.fail(n.line, n.column, required.name, "required: every object states its apiVersion and kind")
			case e.value.string() == "":
				r.fail(e.value.line, e.value.column, required.name, "want a string that is not empty")
			}
		}
		if len(r.errs) > 0 {
			return nil
		}
		gv, err := schema.ParseGroupVersion(version.value.text)
		if err != nil {
			r.fail(version.value.line, version.value.column, "apiVersion", "want group/version, got %q", version.value.text)
			return nil
		}
		r.gvk = gv.WithKind(kind.value.text)
	}
	k := kinds.ForGVK(r.gvk)
	if k == nil || !k.Declarable {
		at, field := n, "kind"
		if kind != nil {
			at = kind.value
		}
		message, skippable := whyNot(r.gvk, k)
		if served := otherVersion(r.gvk); served != nil && version != nil {
			at, field, skippable = version.value, "apiVersion", false
			message = fmt.Sprintf("%s is not served in %s; use %s", r.gvk.Kind, version.value.text, served.GroupVersion())
		}
		r.unserved = unserved(r.gvk)
		r.fail(at.line, at.column, field, "%s", message)
		r.errs[0].Object = strings.TrimSpace(r.gvk.Kind + " " + nameIn(n))
		if name := nameOf(r.gvk); skippable && v1alpha1.WrongIgnoreKind(name) == "" {
			r.errs[0].skip = name
		}
		return nil
	}
	return k
}

// whyNot says why a manifest cannot state a kind, and whether the remedy may be to skip it.
func whyNot(gvk schema.GroupVersionKind, k *kinds.Kind) (why string, skippable bool) {
	switch {
	case gvk.Kind == "List" && gvk.Group == "":
		return "a List needs items, a list of objects", false
	case k != nil:
		why = gvk.Kind + " objects are made by the cluster itself, not by manifests"
	case gvk.Group == kustomize:
		why = "Kustomize is not supported yet: commit what kustomize build prints"
	case gvk.Group == admissionregistrationv1.GroupName:
		why = fmt.Sprintf("%s (%s) is not served: nothing but Lockstep itself admits or changes what is pushed",
			gvk.Kind, gvk.GroupVersion())
	default:
		if meant := misspelt(gvk); meant != nil {
			hint := meant.Kind
			if meant.GroupVersion() != gvk.GroupVersion() {
				hint += " (" + meant.GroupVersion().String() + ")"
			}
			return fmt.Sprintf("%s (%s) is not served: did you mean %s?", gvk.Kind, gvk.GroupVersion(), hint), false
		}
		why = fmt.Sprintf("%s (%s) is not served yet", gvk.Kind, gvk.GroupVersion())
	}
	return why, true
}

// slips is how many letters of a kind or a group may be wrong: with more it is likely to be another one, of another system.
const slips = 2

// misspelt returns the kind that was most likely meant where kind or group have a slip, or nil. A group that is known, or
// like none, is not mistaken for another; a kind without a group may be of any.
func misspelt(gvk schema.GroupVersionKind) *kinds.Kind {
	named := map[string]*kinds.Kind{}
	for _, k := range kinds.All {
		slip := near.Of(gvk.Group, []string{k.Group}) != "" && near.Distance(gvk.Group, k.Group) <= slips
		if k.Declarable && (k.Group == gvk.Group || gvk.Group == "" || slip) {
			named[k.Kind] = k
		}
	}
	kind := near.Of(gvk.Kind, slices.Sorted(maps.Keys(named)))
	if near.Distance(strings.ToLower(gvk.Kind), strings.ToLower(kind)) > slips {
		return nil
	}
	return named[kind]
}

// otherVersion returns the kind of the same name that is served in another version or group Kubernetes once had it in.
func otherVersion(gvk schema.GroupVersionKind) *kinds.Kind {
	for _, k := range kinds.All {
		if k.Declarable && k.Kind == gvk.Kind && k.GroupVersion() != gvk.GroupVersion() &&
			(k.Group == gvk.Group || gvk.Group == "" || gvk.Group == "extensions") {
			return k
		}
	}
	return nil
}

func kustomization(name string) bool {
	base := name[strings.LastIndexByte(name, '/')+1:]
	return base == "kustomization.yaml" || base == "kustomization.yml"
}

// identify returns the object's key, and its name for errors.
func identify(k *kinds.Kind, n *node) (kinds.Key, string) {
	metadata := n.get("metadata")
	namespace := ""
	if k.Namespaced {
		if namespace = metadata.get("namespace").string(); namespace == "" {
			namespace = "default"
		}
	}
	key := k.Key(namespace, metadata.get("name").string())
	if key.Name == "" {
		return key, k.Kind
	}
	return key, key.String()
}

// nameIn names an object whose scope is not known.
func nameIn(n *node) string {
	metadata := n.get("metadata")
	name := metadata.get("name").string()
	if namespace := metadata.get("namespace").string(); namespace != "" {
		return namespace + "/" + name
	}
	return name
}

// name wants a name, and one of the object's own.
func (c *checker) name(n *node) {
	metadata := n.entry("metadata")
	var at *node
	if metadata != nil {
		at = metadata.value
	}
	if g := at.entry("generateName"); g != nil && !g.value.zero() {
		c.report(g.line, g.column, "metadata.generateName", "refused: an object that is kept in files needs a name of its own")
		g.value = &node{line: g.line, column: g.column}
	}
	if e := at.entry("name"); e != nil && (e.value.shape != text || e.value.text != "") {
		return
	}
	c.suspend("metadata.name")
	switch {
	case metadata == nil:
		c.report(n.line, n.column, "metadata.name", "required")
	default:
		c.report(metadata.line, metadata.column, "metadata.name", "required")
	}
}

// build decodes, defaults and validates an object that fits its type, and reports what is wrong with it.
func (c *checker) build(k *kinds.Kind, n *node) *Object {
	data := n.appendJSON(nil)
	if len(data) > MaxObject {
		c.report(n.line, n.column, "", "the object has %d bytes, more than the limit of %d MiB", len(data), MaxObject>>20)
		return nil
	}
	o, err := decode(k, data)
	if err != nil {
		c.report(n.line, n.column, "", "cannot decode the object")
		return nil
	}
	c.refuseUnlisted(k, n, o)
	for _, e := range prepare(o) {
		if len(c.problems) == counted {
			break
		}
		if rest, ok := strings.CutPrefix(e.Field, "metadata.taints"); ok { // where Kubernetes' validation takes them to be
			e.Field = "spec.taints" + rest
		}
		c.invalid(n, e)
	}
	if field, ports, of, most := reached(o); ports*of > most {
		c.tooMuch(n, field, "%d ports for %d addresses are more than the limit of %d together, which every node would have rules for",
			ports, of, most)
	}
	if s := k.Scale(o); s != nil && s.Wanted != nil && *s.Wanted > MaxReplicas {
		c.tooMuch(n, "spec.replicas", tooManyPods, *s.Wanted, MaxReplicas)
	}
	switch how := o.GetAnnotations()[kinds.Cascade]; how {
	case "", kinds.CascadeBackground, kinds.CascadeOrphan:
	default:
		c.tooMuch(n, "metadata.annotations["+kinds.Cascade+"]", "value %q is not supported (supported: %q, %q)", how,
			kinds.CascadeBackground, kinds.CascadeOrphan)
	}
	if meta, _, at := k.Pods(o); meta != nil && meta.Annotations[kinds.LetGo] != "" {
		c.tooMuch(n, strings.TrimSuffix(at, "spec")+"metadata.annotations["+kinds.LetGo+"]",
			"refused: a Job notes it on pods that it has given up, and would give up each of these")
	}
	if meta, spec, at := k.Pods(o); spec != nil {
		c.crowded(n, meta, spec, at)
	}
	switch o := o.(type) {
	case *autoscalingv2.HorizontalPodAutoscaler:
		if _, ok := kinds.ScaleTarget(o); !ok {
			ref := o.Spec.ScaleTargetRef
			c.tooMuch(n, "spec.scaleTargetRef.kind", "%s (%s) has no scale: only Deployments, ReplicaSets, StatefulSets (apps/v1) and "+
				"ReplicationControllers (v1) do", ref.Kind, cmp.Or(ref.APIVersion, "no apiVersion"))
		}
		if most := o.Spec.MaxReplicas; most > MaxReplicas {
			c.tooMuch(n, "spec.maxReplicas", tooManyPods, most, MaxReplicas)
		}
	case *batchv1.Job:
		c.tooManyPods(n, "spec", &o.Spec)
	case *batchv1.CronJob:
		c.tooManyPods(n, "spec.jobTemplate.spec", &o.Spec.JobTemplate.Spec)
		if neverComes(o) {
			c.tooMuch(n, "spec.schedule", "%q never comes", o.Spec.Schedule)
		}
	case *corev1.Endpoints:
		c.otherFamily(n, o)
	case *corev1.Node:
		c.others(n, o)
	case *corev1.Service:
		c.balanced(n, o)
	case *networkingv1.Ingress:
		if ingress.Named(o) == ingress.Class { // of other names it is not known here whose they are
			_, faults := ingress.Read(o)
			for _, f := range faults {
				c.tooMuch(n, f.Field, "%s", f.Message)
			}
		}
	case *networkingv1.IngressClass:
		c.ownClass(n, o)
	}
	if len(c.problems)+len(c.strict) > 0 {
		return nil
	}
	stated, err := statedIn(n, o)
	if err != nil {
		c.report(n.line, n.column, "", "cannot encode the object")
		return nil
	}
	return &Object{Object: o, Stated: stated}
}

// tooManyPods bounds what a Job asks for, at once and in all: what has ended stays until the Job has.
func (c *checker) tooManyPods(n *node, path string, s *batchv1.JobSpec) {
	for field, pods := range map[string]*int32{path + ".parallelism": s.Parallelism, path + ".completions": s.Completions} {
		if pods != nil && *pods > MaxReplicas {
			c.tooMuch(n, field, tooManyPods, *pods, MaxReplicas)
		}
	}
}

// ownClass refuses of a class of Lockstep's own what says nothing to it.
func (c *checker) ownClass(n *node, o *networkingv1.IngressClass) {
	if !ingress.Owned(o) {
		return
	}
	if o.Spec.Parameters != nil {
		c.tooMuch(n, "spec.parameters", "not supported: the controller %s has none", ingress.Controller)
	}
	if _, err := ingress.NodesOf(o); err != nil {
		c.tooMuch(n, "metadata.annotations["+ingress.Nodes+"]", "want a label selector, as a=b,c in (d,e): %v", err)
	}
}

func (c *checker) tooMuch(n *node, field, format string, args ...any) {
	p := problem{field: field, message: fmt.Sprintf(format, args...)}
	p.line, p.column, _ = locate(n, field)
	c.problems = append(c.problems, p)
}

// balanced refuses a Service that waits for a load balancer which nobody names, or which asks nodes where endpoints are: nobody answers at
// its healthCheckNodePort.
func (c *checker) balanced(n *node, s *corev1.Service) {
	switch {
	case s.Spec.Type != corev1.ServiceTypeLoadBalancer:
	case s.Spec.LoadBalancerClass == nil:
		c.tooMuch(n, "spec.type", "value %q is not supported yet without spec.loadBalancerClass, which names the program in the cluster "+
			"that serves it: Lockstep has no load balancer of its own", s.Spec.Type)
	case s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
		c.tooMuch(n, "spec.externalTrafficPolicy", "value %q is not supported yet of type LoadBalancer: no node answers at "+
			"healthCheckNodePort, by which the load balancer finds those with endpoints", s.Spec.ExternalTrafficPolicy)
	}
}

// otherFamily refuses addresses of IPv6, of which services have none: EndpointSlices say it by their addressType.
func (c *checker) otherFamily(n *node, e *corev1.Endpoints) {
	refuse := func(path string, addresses []corev1.EndpointAddress) {
		for i, a := range addresses {
			if ip, err := netip.ParseAddr(a.IP); err == nil && !ip.Unmap().Is4() {
				c.tooMuch(n, fmt.Sprintf("%s[%d].ip", path, i), "value %q is not supported yet (supported: addresses of IPv4)", a.IP)
			}
		}
	}
	for i, s := range e.Subsets {
		refuse(fmt.Sprintf("subsets[%d].addresses", i), s.Addresses)
		refuse(fmt.Sprintf("subsets[%d].notReadyAddresses", i), s.NotReadyAddresses)
	}
}

// reached is what an object adds to the rules of each node: ports, for each of so many addresses, with the most that these
// may be together. Ports of other objects are none.
func reached(o kinds.Object) (field string, ports, addresses, most int) {
	switch o := o.(type) {
	case *corev1.Service:
		return "spec.ports", len(o.Spec.Ports), 1 + len(o.Spec.ExternalIPs), MaxPorts
	case *discoveryv1.EndpointSlice:
		return "ports", len(o.Ports), len(o.Endpoints), MaxSlicePorts
	case *corev1.Endpoints: // made EndpointSlices, one a subset
		for _, s := range o.Subsets {
			addresses += len(s.Ports) * (len(s.Addresses) + len(s.NotReadyAddresses))
		}
		return "subsets", 1, addresses, MaxSlicePorts
	}
	return "", 0, 0, 0
}

// prepare turns a panic of Kubernetes' validation, which is reached by whatever somebody pushes, into an error.
func prepare(o kinds.Object) (errs field.ErrorList) {
	defer func() {
		if r := recover(); r != nil {
			errs = field.ErrorList{field.InternalError(field.NewPath("spec"), errors.New("the validation gave up on the object"))}
		}
	}()
	return strategy.PrepareCreate(o)
}

// decode returns the defaulted object that JSON states, in the namespace default where it needs one and names none.
func decode(k *kinds.Kind, data []byte) (kinds.Object, error) {
	o := k.New()
	if err := sigsjson.UnmarshalCaseSensitivePreserveInts(data, o); err != nil {
		return nil, err
	}
	switch {
	case !k.Namespaced:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace("default")
	}
	if pod, ok := o.(*corev1.Pod); ok {
		admission.Complete(pod)
	}
	strategy.Default(o)
	return o, nil
}

// refuseUnlisted reports the stated fields that are not acted on, except those that have the value they would have
// without being stated.
func (c *checker) refuseUnlisted(k *kinds.Kind, n *node, o kinds.Object) {
	if len(c.unlisted) == 0 {
		return
	}
	stated, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		stated = nil
	}
	defaults := c.withoutUnlisted(k, n)
	for _, u := range c.unlisted {
		path := pathOf(u.field)
		if value, found := lookup(stated, path); stated != nil && found {
			if byDefault, found := lookup(defaults, path); found && reflect.DeepEqual(value, byDefault) {
				continue
			}
		}
		c.report(u.entry.line, u.entry.column, u.field, "not supported yet: %s", u.reason)
		c.suspend(u.field)
	}
}

// withoutUnlisted returns what the object would be if the unlisted fields were not stated.
func (c *checker) withoutUnlisted(k *kinds.Kind, n *node) map[string]any {
	for i := range c.unlisted {
		e := c.unlisted[i].entry
		value := e.value
		e.value = &node{}
		defer func() { e.value = value }()
	}
	o, err := decode(k, n.appendJSON(nil))
	if err != nil {
		return nil
	}
	prepare(o)
	defaults, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil
	}
	return defaults
}
