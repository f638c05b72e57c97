package api

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/warning"

	"lockstep/daemon/api/watch"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/view"
)

// storage reads one kind for Kubernetes' handlers, which negotiate formats and encode.
type storage struct {
	kind *kinds.Kind
	*server
}

var (
	_ rest.Getter  = (*storage)(nil)
	_ rest.Lister  = (*storage)(nil)
	_ rest.Watcher = (*storage)(nil)
)

// New implements rest.Storage.
func (s *storage) New() runtime.Object { return s.kind.New() }

// NewList implements rest.Lister.
func (s *storage) NewList() runtime.Object { return s.kind.NewList() }

// Get implements rest.Getter.
func (s *storage) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	v, err := s.viewFor(ctx, opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	key := s.kind.Key(s.namespace(ctx), name)
	o := v.Get(key)
	if why := v.Unreadable(key); o == nil && why != "" {
		return nil, apierrors.NewInternalError(fmt.Errorf("%v is stored and cannot be read: %s", key, why))
	}
	if o == nil {
		return nil, s.notFound(name)
	}
	return s.hub.Present(v, o), nil
}

// viewFor returns a view that is as new as a resourceVersion asks: now for "", any for "0", else at least it.
func (s *storage) viewFor(ctx context.Context, resourceVersion string) (*view.View, error) {
	rev, err := watch.Revision(resourceVersion)
	if err == nil && resourceVersion == "" {
		rev, err = s.latestRead(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s.hub.Reach(ctx, rev)
}

// List implements rest.Lister.
func (s *storage) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	f, err := s.filter(ctx, opts)
	if err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &metainternalversion.ListOptions{}
	}
	v, after, err := s.listView(ctx, &f, opts)
	if err != nil {
		return nil, err
	}
	if err := f.Unread(v); err != nil {
		return nil, err
	}
	page := s.page(ctx, v, f, after, opts.Limit)
	if err := ctx.Err(); err != nil {
		return nil, apierrors.NewTimeoutError("nobody waits for the list: "+err.Error(), retryAfter)
	}
	list := s.kind.NewList()
	access, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	access.SetResourceVersion(strconv.FormatInt(v.Revision(), 10))
	if page.next != "" {
		token, err := apistorage.EncodeContinue("/"+s.mark(ctx, opts)+"/"+page.next+"\x00", "/", v.Revision())
		if err != nil {
			return nil, err
		}
		access.SetContinue(token)
		if f.Whole() {
			access.SetRemainingItemCount(&page.remaining)
		}
		s.hub.Keep(v)
	}
	setItems(list, page.objects)
	return list, nil
}

// filter reads what a request is about. Nodes see of nodes what they need of each other.
func (s *storage) filter(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Filter, error) {
	f, err := watch.NewFilter(s.kind, s.namespace(ctx), opts)
	if identityOf(ctx).Role == rights.Node {
		f.Lean()
	}
	return f, err
}

// listView returns the view a list reads and, where it continues one, the path after which it does.
func (s *storage) listView(ctx context.Context, f *watch.Filter, opts *metainternalversion.ListOptions) (*view.View, string, error) {
	if opts.Continue == "" {
		if opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
			return s.exact(ctx, opts.ResourceVersion)
		}
		v, err := s.viewFor(ctx, opts.ResourceVersion)
		if err == nil && opts.ResourceVersion == "" {
			v = s.hub.Whole(ctx, f, v)
		}
		return v, "", err
	}
	if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		return nil, "", apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	place, rev, err := apistorage.DecodeContinue(opts.Continue, "")
	if err != nil {
		return nil, "", apierrors.NewBadRequest("invalid continue token: " + err.Error())
	}
	mark := s.mark(ctx, opts)
	after, ours := strings.CutPrefix(place, mark+"/")
	if !ours {
		return nil, "", apierrors.NewBadRequest("invalid continue token: it is of a list of another kind, namespace or selector")
	}
	// A negative revision is what follows an expired token: go on at the same place in what is there now.
	if rev < 0 {
		v, err := s.viewFor(ctx, "")
		return v, after, err
	}
	v := s.hub.Snapshot(rev)
	if v == nil {
		return nil, "", expiredContinue(mark, after)
	}
	return v, after, nil
}

// mark tells what a list is of, so that a token that continues it continues no other.
func (s *storage) mark(ctx context.Context, opts *metainternalversion.ListOptions) string {
	h := fnv.New64a()
	of := []string{s.kind.GroupResource().String(), s.namespace(ctx)}
	if opts.LabelSelector != nil {
		of = append(of, "labels", opts.LabelSelector.String())
	}
	if opts.FieldSelector != nil {
		of = append(of, "fields", opts.FieldSelector.String())
	}
	for _, part := range of {
		fmt.Fprintf(h, "%q", part)
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

func (s *storage) exact(ctx context.Context, resourceVersion string) (*view.View, string, error) {
	rev, err := watch.Revision(resourceVersion)
	if err != nil {
		return nil, "", err
	}
	if _, err := s.hub.Reach(ctx, rev); err != nil {
		return nil, "", err
	}
	if v := s.hub.Snapshot(rev); v != nil {
		return v, "", nil
	}
	return nil, "", apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
}

// expiredContinue is Kubernetes' answer to a continue token whose snapshot is gone: a list anew, or the rest of it as of
// now by the token in the answer.
func expiredContinue(mark, after string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list.")
	if token, encodeErr := apistorage.EncodeContinue("/"+mark+"/"+after, "/", -1); encodeErr == nil {
		err.ErrStatus.ListMeta.Continue = token
	}
	return err
}

type page struct {
	objects   []kinds.Object
	next      string // path of the last object where there are more
	remaining int64
}

// page reads up to limit objects (0: all) after a path, counting how many are left. It ends with ctx, where it may.
func (s *storage) page(ctx context.Context, v *view.View, f watch.Filter, after string, limit int64) page {
	var p page
	for o := range f.Objects(v) {
		path := pagePath(o)
		switch {
		case ctx.Err() != nil:
			return p
		case after != "" && comparePaths(path, after) < 0:
		case limit > 0 && int64(len(p.objects)) == limit:
			p.next = pagePath(p.objects[limit-1])
			if p.remaining++; !f.Whole() {
				return p // nobody is told how many
			}
		default:
			p.objects = append(p.objects, f.Shown(s.hub.Present(v, o)))
		}
	}
	return p
}

// pagePath is an object's place in a list, namespace and name; "-" is no namespace's name.
func pagePath(o kinds.Object) string {
	if o.GetNamespace() == "" {
		return "-/" + o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// comparePaths orders places as views order objects: by namespace, then by name.
func comparePaths(a, b string) int {
	aNamespace, aName, _ := strings.Cut(a, "/")
	bNamespace, bName, _ := strings.Cut(b, "/")
	if c := strings.Compare(aNamespace, bNamespace); c != 0 {
		return c
	}
	return strings.Compare(aName, bName)
}

// setItems fills a typed list; an empty one is [] in JSON, not null.
func setItems(list runtime.Object, objects []kinds.Object) {
	items := reflect.ValueOf(list).Elem().FieldByName("Items")
	slice := reflect.MakeSlice(items.Type(), len(objects), len(objects))
	for i, o := range objects {
		slice.Index(i).Set(reflect.ValueOf(o).Elem())
	}
	items.Set(slice)
}

// Watch implements rest.Watcher.
func (s *storage) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (apiwatch.Interface, error) {
	f, err := s.filter(ctx, opts)
	if err != nil {
		return nil, err
	}
	from := watch.From{Initial: opts.SendInitialEvents != nil && *opts.SendInitialEvents, Bookmarks: opts.AllowWatchBookmarks}
	if from.Revision, err = watch.Revision(opts.ResourceVersion); err != nil {
		return nil, err
	}
	from.Least = from.Revision
	if opts.ResourceVersion == "" { // what is sent first is never older than the request
		if from.Least, err = s.latestRead(ctx); err != nil {
			return nil, err
		}
	}
	if from.Initial || from.Revision == 0 {
		if err := f.Unread(s.store.View()); err != nil {
			return nil, err
		}
	}
	return s.hub.Watch(ctx, f, from)
}

// ConvertToTable implements rest.TableConvertor: every row bears its whole object, which the handler reduces to what
// the request asks for.
func (s *storage) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	var table metav1.TableOptions
	if given, ok := options.(*metav1.TableOptions); ok && given != nil {
		table = *given
	}
	table.IncludeObject = metav1.IncludeObject
	if err := ctx.Err(); err != nil {
		return nil, apierrors.NewTimeoutError("nobody waits for the table: "+err.Error(), retryAfter)
	}
	objects, err := elements(o)
	if err != nil {
		return nil, err
	}
	out, err := strategy.Table(s.kind, objects, &table)
	if err != nil {
		return nil, err
	}
	if list, err := meta.ListAccessor(o); err == nil {
		out.ResourceVersion, out.Continue = list.GetResourceVersion(), list.GetContinue()
		out.RemainingItemCount = list.GetRemainingItemCount()
	} else if one, err := meta.CommonAccessor(o); err == nil {
		out.ResourceVersion = one.GetResourceVersion()
	}
	return out, nil
}

// elements are the objects of a list, or the one object.
func elements(o runtime.Object) ([]kinds.Object, error) {
	if !meta.IsListType(o) {
		one, ok := o.(kinds.Object)
		if !ok {
			return nil, errors.New("cannot print an object that has no metadata")
		}
		return []kinds.Object{one}, nil
	}
	var out []kinds.Object
	err := meta.EachListItem(o, func(item runtime.Object) error {
		out = append(out, item.(kinds.Object))
		return nil
	})
	return out, err
}

// namespace is the one a request names; a namespace's own path names itself as one too.
func (s *storage) namespace(ctx context.Context) string {
	if !s.kind.Namespaced {
		return ""
	}
	return request.NamespaceValue(ctx)
}

func (s *storage) notFound(name string) error {
	return apierrors.NewNotFound(s.kind.GroupResource(), name)
}

// latest is the store's revision now: what is read at it is never older than the request.
func (s *server) latest(ctx context.Context) (int64, error) {
	rev, err := s.store.Current(ctx)
	if err != nil {
		return 0, unavailable(err)
	}
	return rev, nil
}

// latestRead is the store's revision now, as latest; while etcd does not answer people get what there was, with a warning, since they
// can judge it. Programs and nodes do not.
func (s *server) latestRead(ctx context.Context) (int64, error) {
	rev, err := s.latest(ctx)
	if err == nil || ctx.Err() != nil || identityOf(ctx).Role != rights.Person || !errors.Is(s.store.Health(), store.ErrGone) {
		return rev, err
	}
	warning.AddWarning(ctx, "", "this is as it was, and may have changed since: "+s.store.Health().Error())
	return s.hub.View().Revision(), nil
}
