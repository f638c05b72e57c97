package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/daemon/api/watch"
	"lockstep/daemon/provenance"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/pods"
	"lockstep/store"
	"lockstep/store/view"
)

const (
	// tries of a patch that names no resourceVersion, when others change the object at the same time; as in Kubernetes.
	tries = 5
	// readBackWait bounds the wait for the view to show what was written.
	readBackWait = 5 * time.Second
)

// change is one kind of write that nodes and programs may make, for Kubernetes' handlers.
type change struct {
	*storage
	subresource                        string
	create, update, delete, collection bool
	// body bounds what a request may bring, and size what is stored of it; both in bytes.
	body, size int
	// node judges what the node of that name writes beyond what its URL says, and program what an account does; old is nil for a
	// creation. They may alter what is new. Nil: such a one writes nothing of it.
	node, program func(writer string, v *view.View, new, old kinds.Object) error
	// prepare applies Kubernetes' own rules to an update.
	prepare func(new, old kinds.Object) field.ErrorList
	// in is the group's version that requests are for; the zero value: the kind's own.
	in schema.GroupVersion
}

var (
	_ rest.Creater           = (*change)(nil)
	_ rest.Patcher           = (*change)(nil)
	_ rest.GracefulDeleter   = (*change)(nil)
	_ rest.CollectionDeleter = (*change)(nil)
)

// changes are those of a kind that decide lets nodes and programs make.
func changes(s *storage) []*change {
	out := own(s)
	told := slices.ContainsFunc(out, func(c *change) bool { return c.subresource == "status" })
	if !told && len(rights.Verbs(s.kind.GroupResource(), "status")) > 0 {
		out = append(out, &change{storage: s, subresource: "status", update: true, body: maxBody, size: maxReport,
			program: rights.CheckProgramStatus, prepare: strategy.PrepareStatus})
	}
	return out
}

// own are those that are about one kind.
func own(s *storage) []*change {
	switch s.kind.GroupResource().String() {
	case "nodes":
		return []*change{
			{storage: s, create: true, update: true, body: maxReport, size: maxReport, node: rights.CheckNode,
				prepare: strategy.PrepareUpdate},
			{storage: s, subresource: "status", update: true, body: maxReport, size: maxReport, node: rights.CheckNodeStatus,
				program: rights.CheckProgramStatus, prepare: strategy.PrepareStatus},
		}
	case "pods":
		return []*change{
			{storage: s, delete: true, body: maxNote},
			{storage: s, subresource: "status", update: true, body: maxBody, size: maxReport, node: rights.CheckPodStatus,
				program: rights.CheckProgramPodStatus, prepare: strategy.PrepareStatus},
		}
	case "services":
		return []*change{{storage: s, subresource: "status", update: true, body: maxBody, size: maxReport,
			program: s.checkServiceStatus, prepare: strategy.PrepareStatus}}
	case "ingresses.networking.k8s.io":
		return []*change{{storage: s, subresource: "status", update: true, body: maxBody, size: maxReport,
			program: rights.CheckProgramIngressStatus, prepare: strategy.PrepareStatus}}
	case "persistentvolumeclaims":
		return []*change{{storage: s, subresource: "status", update: true, body: maxReport, size: maxReport,
			node: rights.CheckClaimStatus, program: rights.CheckProgramStatus, prepare: strategy.PrepareStatus}}
	case "persistentvolumes":
		return []*change{{storage: s, update: true, body: maxReport, size: maxReport, node: rights.CheckVolume,
			prepare: strategy.PrepareUpdate}}
	case "csinodes.storage.k8s.io":
		return []*change{{storage: s, create: true, update: true, body: maxReport, size: maxReport, node: rights.CheckCSINode,
			prepare: strategy.PrepareUpdate}}
	case "events":
		return []*change{{
			storage: s, create: true, update: true, delete: true, collection: true, body: maxReview, size: maxNote,
			node: rights.CheckEvent, program: rights.CheckProgramEvent, prepare: strategy.PrepareUpdate,
		}}
	case "leases.coordination.k8s.io":
		return []*change{{
			storage: s, create: true, update: true, delete: true, collection: true, body: maxNote, size: maxNote,
			node: rights.CheckLease, program: rights.CheckProgramLease, prepare: strategy.PrepareUpdate,
		}}
	default:
		return nil
	}
}

// Create implements rest.Creater.
func (c *change) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc,
	opts *metav1.CreateOptions) (runtime.Object, error) {
	o := obj.(kinds.Object)
	if err := c.complete(ctx, o); err != nil {
		return nil, err
	}
	v, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.judge(ctx, v, "create", o, nil); err != nil {
		return nil, err
	}
	if err := cmp.Or(honest(o, c.now()), c.fits(o, nil)); err != nil {
		return nil, err
	}
	strategy.Default(o)
	if errs := strategy.PrepareCreateIn(cmp.Or(c.in, c.kind.GroupVersion()), o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(c.kind.GroupKind(), o.GetName(), errs)
	}
	if err := validate(ctx, o); err != nil {
		return nil, err
	}
	write := store.Write{Key: c.keyOf(o), Object: o, Reason: "created by " + identityOf(ctx).User.Name}
	if v.Get(write.Key) != nil {
		return nil, apierrors.NewAlreadyExists(c.kind.GroupResource(), o.GetName())
	}
	var out runtime.Object
	switch {
	case programmed(ctx):
		out, err = c.make(ctx, v, write, dryRun(opts.DryRun))
	case dryRun(opts.DryRun):
		return o, nil
	default:
		out, err = c.commit(ctx, write)
	}
	if errors.Is(err, store.ErrConflict) {
		return nil, apierrors.NewAlreadyExists(c.kind.GroupResource(), o.GetName())
	}
	return out, err
}

// complete sets the namespace and a generated name.
func (c *change) complete(ctx context.Context, o kinds.Object) error {
	if c.kind.Namespaced {
		namespace := request.NamespaceValue(ctx)
		if o.GetNamespace() == "" {
			o.SetNamespace(namespace)
		}
		if o.GetNamespace() != namespace {
			return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
	}
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(o.GetGenerateName() + suffix())
	}
	o.SetResourceVersion("")
	o.SetAnnotations(provenance.Strip(o.GetAnnotations()))
	return nil
}

// Update implements rest.Updater, for PUT and PATCH.
func (c *change) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	var out runtime.Object
	err := c.again(ctx, name, func(v *view.View) (err error) {
		out, err = c.alter(ctx, v, c.kind.Key(c.namespace(ctx), name), info, validate, opts)
		return err
	})
	return out, false, err
}

// again tries from newer views for as long as a try returns store.ErrConflict, some times.
func (c *change) again(ctx context.Context, name string, once func(v *view.View) error) error {
	v, err := c.begin(ctx)
	for try := 1; err == nil; try++ {
		if err = once(v); !errors.Is(err, store.ErrConflict) {
			return err
		}
		if try == tries {
			return apierrors.NewConflict(c.kind.GroupResource(), name, errChanged)
		}
		v, err = c.newest(ctx)
	}
	return err
}

// begin returns the view that a write is judged by first. A node tries again what it is told wrongly, and has the view of its own
// server; a program may rely on an answer.
func (c *change) begin(ctx context.Context) (*view.View, error) {
	if programmed(ctx) {
		return c.newest(ctx)
	}
	return c.store.View(), nil
}

// newest returns a view that is not older than the call.
func (c *change) newest(ctx context.Context) (*view.View, error) {
	rev, err := c.latest(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.store.Wait(ctx, rev)
	if err != nil {
		return nil, apierrors.NewTimeoutError(err.Error(), retryAfter)
	}
	return v, nil
}

var errChanged = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// alter makes one try from a view; store.ErrConflict asks for another from a newer one.
func (c *change) alter(ctx context.Context, v *view.View, key kinds.Key, info rest.UpdatedObjectInfo,
	validate rest.ValidateObjectUpdateFunc, opts *metav1.UpdateOptions) (runtime.Object, error) {
	old := v.Get(key)
	if c.kind == kinds.For[*coordinationv1.Lease]() && !programmed(ctx) {
		return c.renewLease(ctx, key, old, info)
	}
	if old == nil {
		return nil, c.notFound(key.Name)
	}
	updated, err := info.UpdatedObject(ctx, old.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	o := updated.(kinds.Object)
	given := o.GetResourceVersion()
	if given == "" && !strategy.Unconditional(c.kind) {
		return nil, apierrors.NewInvalid(c.kind.GroupKind(), key.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
	}
	if given != "" && given != old.GetResourceVersion() {
		if asked, err := watch.Revision(given); err == nil && asked > v.Revision() {
			return nil, store.ErrConflict // it has seen more than our view
		}
		return nil, apierrors.NewConflict(c.kind.GroupResource(), key.Name, errChanged)
	}
	if p := info.Preconditions(); p != nil && p.UID != nil && *p.UID != old.GetUID() {
		return nil, apierrors.NewConflict(c.kind.GroupResource(), key.Name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, old.GetUID()))
	}
	o.SetAnnotations(provenance.Strip(o.GetAnnotations()))
	strategy.Default(o)
	if err := c.judge(ctx, v, "update", o, old); err != nil {
		return nil, err
	}
	if err := cmp.Or(honest(o, c.now()), c.fits(o, old)); err != nil {
		return nil, err
	}
	if errs := c.prepare(o, old); len(errs) > 0 {
		return nil, apierrors.NewInvalid(c.kind.GroupKind(), key.Name, errs)
	}
	if err := validate(ctx, o, old); err != nil {
		return nil, err
	}
	o.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	if reflect.DeepEqual(o, old) || dryRun(opts.DryRun) {
		return c.hub.Present(v, o), nil
	}
	write := store.Write{Key: key, Object: o, If: kinds.Revision(old), Reason: "written by " + identityOf(ctx).User.Name}
	if o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && len(old.GetFinalizers()) > 0 {
		write.Object = nil // nobody keeps it any more
	}
	out, err := c.commit(ctx, write)
	if out == nil && err == nil {
		out = c.hub.Present(v, o)
	}
	return out, err
}

// renewLease hands a heartbeat to the store, which shows it in the view within a period: a node's is written by that node
// alone, so neither its resourceVersion nor whether the view has it yet is of matter.
func (c *change) renewLease(ctx context.Context, key kinds.Key, old kinds.Object, info rest.UpdatedObjectInfo) (runtime.Object, error) {
	if old == nil {
		old = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	}
	updated, err := info.UpdatedObject(ctx, old.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	lease := updated.(*coordinationv1.Lease)
	lease.SetAnnotations(provenance.Strip(lease.GetAnnotations()))
	if err := rights.CheckLease(identityOf(ctx).Node, nil, lease, nil); err != nil {
		return nil, c.refused(c.store.View(), "update", key, err)
	}
	now := c.now()
	noteSkew(lease, old.(*coordinationv1.Lease), now)
	if err := cmp.Or(honest(lease, now), c.fits(lease, old)); err != nil {
		return nil, err
	}
	lease.Spec.RenewTime = &metav1.MicroTime{Time: now} // by one clock, the server's
	lease.UID, lease.CreationTimestamp, lease.ResourceVersion = old.GetUID(), old.GetCreationTimestamp(), old.GetResourceVersion()
	if errs := strategy.PrepareUpdate(lease, old); len(errs) > 0 && old.GetUID() != "" {
		return nil, apierrors.NewInvalid(c.kind.GroupKind(), key.Name, errs)
	}
	c.store.Renew(key.Name, lease)
	return lease, nil
}

const (
	// aheadMost is how far a node's clock may be ahead before that is noted: those of two machines that keep time differ by less.
	aheadMost = 2 * time.Second
	// behindMost is how far it may be behind: a heartbeat that is on its way for long looks so, too.
	behindMost = 5 * time.Second
)

// noteSkew notes in a heartbeat how far its node's clock is off. It is the server's to note; what it noted before holds where it is about
// the same.
func noteSkew(lease, old *coordinationv1.Lease, now time.Time) {
	delete(lease.Annotations, kinds.ClockSkew)
	if lease.Spec.RenewTime == nil {
		return
	}
	off := lease.Spec.RenewTime.Sub(now)
	if off <= aheadMost && off >= -behindMost {
		return
	}
	if before, err := time.ParseDuration(old.Annotations[kinds.ClockSkew]); err == nil && (off-before).Abs() <= aheadMost {
		off = before
	}
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Annotations[kinds.ClockSkew] = off.Round(time.Second).String()
}

// Delete implements rest.GracefulDeleter: a node ends a pod that it has stopped, a program what is its own.
func (c *change) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc,
	opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	var out runtime.Object
	gone := false
	// Its status may be written meanwhile, which is no reason to keep it.
	err := c.again(ctx, name, func(v *view.View) (err error) {
		out, gone, err = c.end(ctx, v, name, validate, opts)
		return err
	})
	if gone && err == nil && programmed(ctx) {
		out = c.ended(out.(kinds.Object))
	}
	return out, gone, err
}

// end makes one try from a view; store.ErrConflict asks for another from a newer one.
func (c *change) end(ctx context.Context, v *view.View, name string, validate rest.ValidateObjectFunc,
	opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key := c.kind.Key(c.namespace(ctx), name)
	old := v.Get(key)
	if old == nil {
		return nil, false, c.notFound(name)
	}
	if err := c.mayEnd(ctx, v, old, opts); err != nil {
		return nil, false, err
	}
	if err := unmet(opts.Preconditions, old); err != nil {
		return nil, false, apierrors.NewConflict(c.kind.GroupResource(), name, err)
	}
	if pod, ok := old.(*corev1.Pod); ok {
		if err := uncounted(v, pod); err != nil {
			return nil, false, err
		}
	}
	if err := validate(ctx, old); err != nil {
		return nil, false, err
	}
	if dryRun(opts.DryRun) {
		return c.hub.Present(v, old), true, nil
	}
	changed, gone := strategy.Delete(old, c.now(), opts.GracePeriodSeconds)
	if !gone && changed == nil {
		return c.hub.Present(v, old), false, nil
	}
	write := store.Write{Key: key, Object: changed, If: kinds.Revision(old), Reason: "ended by " + identityOf(ctx).User.Name}
	if gone {
		write.Object = nil
	}
	out, err := c.commit(ctx, write)
	if out == nil {
		out = c.hub.Present(v, old)
	}
	return out, gone, err
}

// uncounted refuses the end of a pod that its Job has not counted yet.
func uncounted(v *view.View, p *corev1.Pod) error {
	if j := pods.HeldBy(v, p); j != nil {
		return apierrors.NewTooManyRequests(fmt.Sprintf("%v has not counted yet how the pod ended", kinds.KeyOf(j)), retryAfter)
	}
	return nil
}

// mayEnd refuses the end of an object that is not for who asks, or not in this way.
func (c *change) mayEnd(ctx context.Context, v *view.View, old kinds.Object, opts *metav1.DeleteOptions) error {
	if programmed(ctx) {
		return c.mayEndOwn(ctx, v, old, opts)
	}
	if kinds.NodeOf(old) != identityOf(ctx).Node { // it came after the request was judged
		return c.refused(v, "delete", kinds.KeyOf(old), errors.New("the pod is not bound to this node"))
	}
	if p := opts.Preconditions; opts.GracePeriodSeconds == nil || *opts.GracePeriodSeconds != 0 || p == nil || p.UID == nil {
		return c.refused(v, "delete", kinds.KeyOf(old),
			errors.New("a node deletes a pod only with grace period 0 and a uid precondition"))
	}
	return nil
}

// unmet says in Kubernetes' words what is not as a deletion wants it.
func unmet(p *metav1.Preconditions, o kinds.Object) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != o.GetUID() {
		return fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, o.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != o.GetResourceVersion() {
		return fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
			*p.ResourceVersion, o.GetResourceVersion())
	}
	return nil
}

// commit writes, with what goes together with it, and returns the object as the view then has it; nil where it was deleted.
func (c *change) commit(ctx context.Context, w store.Write, with ...store.Write) (runtime.Object, error) {
	sized, ok := w.Object.(interface{ Size() int })
	if ok && !c.budgets.stored.Allow(identityOf(ctx).writer(), float64(sized.Size()), c.now()) {
		return nil, apierrors.NewTooManyRequests("this client has written more than its share, try again later", retryAfter)
	}
	result := c.store.Commit(ctx, append(store.Group{w}, with...))[0]
	if result.Err != nil {
		return nil, c.unwritten(w.Key, result.Err)
	}
	wait, cancel := context.WithTimeout(ctx, readBackWait)
	defer cancel()
	v, err := c.store.Wait(wait, result.Revision)
	if err != nil {
		return nil, apierrors.NewTimeoutError("the write was made but cannot be read back: "+err.Error(), retryAfter)
	}
	switch o := v.Get(w.Key); {
	case o != nil:
		return c.hub.Present(v, o), nil
	case w.Object != nil:
		return w.Object, nil // somebody has deleted it since, or the store has not shown it yet
	default:
		return nil, nil
	}
}

// unwritten says in Kubernetes' words why a write was not made. ErrConflict is for the caller, who may try again.
func (c *change) unwritten(key kinds.Key, err error) error {
	switch {
	case errors.Is(err, store.ErrConflict):
		return err
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, store.ErrUnknown):
		return apierrors.NewServerTimeout(c.kind.GroupResource(), "write", retryAfter)
	case errors.Is(err, store.ErrUnavailable):
		return unavailable(err)
	default:
		return fmt.Errorf("cannot write %s: %w", key, err)
	}
}

func unavailable(err error) error {
	out := apierrors.NewServiceUnavailable("the cluster's store does not answer: " + err.Error())
	out.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: retryAfter}
	return out
}

// judge judges a change beyond what its URL says; old is nil for a creation, and what a program deletes is both.
func (c *change) judge(ctx context.Context, v *view.View, verb string, new, old kinds.Object) error {
	var err error
	switch {
	case !programmed(ctx):
		err = c.node(identityOf(ctx).Node, v, new, old)
	case old != nil && c.subresource == "" && c.declared(v, old):
		err = errStated
	default:
		err = c.program(identityOf(ctx).User.Name, v, new, old)
	}
	var wrong *field.Error
	switch {
	case errors.As(err, &wrong):
		return apierrors.NewInvalid(c.kind.GroupKind(), new.GetName(), field.ErrorList{wrong})
	case err != nil:
		return c.refused(v, verb, c.keyOf(new), err)
	}
	return nil
}

// refused turns a check's objection into the answer to a change that is made elsewhere.
func (c *change) refused(v *view.View, verb string, key kinds.Key, err error) error {
	a := rights.Access{
		Verb: verb, Group: key.Group, Resource: key.Resource, Subresource: c.subresource, Namespace: key.Namespace, Name: key.Name,
	}
	return c.refusal(v, a, err.Error())
}

func (c *change) keyOf(o kinds.Object) kinds.Key { return c.kind.Key(o.GetNamespace(), o.GetName()) }

// suffix ends a generated name as Kubernetes' do.
func suffix() string { return rand.String(5) }

func dryRun(values []string) bool { return len(values) > 0 }

// judged lets handlers ask again whether what was permitted is.
type judged struct{}

// Authorize implements authorizer.Authorizer.
func (judged) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}
