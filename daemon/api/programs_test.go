package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"

	"lockstep/daemon/api/accounts"
	"lockstep/kinds"
)

// programCluster is testCluster with programs: of the account leader, whom a role in shop grants leases and events, root, who may
// everything, and default, who may nothing. The namespace ending is being deleted.
func programCluster() []kinds.Object {
	account := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: name}
	}
	writes := []string{"get", "create", "update", "patch", "delete", "deletecollection"}
	role := &rbacv1.Role{ObjectMeta: named("shop", "leads"), Rules: []rbacv1.PolicyRule{
		{Verbs: writes, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}},
		{Verbs: writes, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}},
	}}
	space := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: named("", name), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	}
	ending := space("ending")
	ending.DeletionTimestamp, ending.Status.Phase = &metav1.Time{Time: ending.CreationTimestamp.Time}, corev1.NamespaceTerminating
	return append(testCluster(), role, bindingOf("shop", "leads", "leads", account("leader")),
		binding("", "root", "cluster-admin", account("root")), ending, space("bank"), space("kube-system"), space("kube-node-lease"),
		&corev1.ServiceAccount{ObjectMeta: named("shop", "leader")}, &corev1.ServiceAccount{ObjectMeta: named("shop", "root")})
}

// program is a client configuration with a token of an account of the namespace shop, bound to a pod.
func (s *testServer) program(account string) *rest.Config {
	s.t.Helper()
	bound := accounts.Bound{
		Account: &corev1.ServiceAccount{ObjectMeta: named("shop", account)}, Pod: testPod("shop", "cart-1-a", "n1"), Node: testNode("n1"),
	}
	token, err := s.server.accounts.Issue(s.t.Context(), bound, []string{s.server.accounts.Audience()}, 3600)
	if err != nil {
		s.t.Fatal(err)
	}
	config := s.bearer(token)
	config.QPS = -1
	return config
}

// beside is another control plane with the same store.
func (s *testServer) beside() *testServer {
	other := *s
	other.opts.Registerer = nil
	other.start("127.0.0.1:0")
	s.t.Cleanup(func() { other.stop() })
	return &other
}

const (
	shopLeases = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
	shopEvents = "/api/v1/namespaces/shop/events"
)

func leaseBody(namespace, metadata, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"namespace":%q,%s},"spec":{%s}}`,
		namespace, metadata, spec)
}

// TestProgramsWrite asks for what programs may write and for what they may not, and compares the answers with
// testdata/programs.txt.
func TestProgramsWrite(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	stated := &coordinationv1.Lease{ObjectMeta: named("shop", "stated")}
	apiserver := &coordinationv1.Lease{ObjectMeta: named("kube-system", "apiserver-abc")}
	apiserver.Labels = map[string]string{"apiserver.kubernetes.io/identity": "kube-apiserver"}
	s.put(stated, apiserver, &corev1.ResourceQuota{ObjectMeta: named("bank", "few"), Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/leases.coordination.k8s.io": resource.MustParse("1")}}})
	s.declare(kinds.KeyOf(stated), "shop/leases.yaml", 3)
	if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
		t.Fatal(err)
	}
	who := map[string]*rest.Config{
		"leader": s.program("leader"), "root": s.program("root"), "default": s.program("default"),
		"viewer": s.viewer(), "node": s.node("n1"),
	}
	leasesOf := func(namespace string) string {
		return "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases"
	}
	event := func(name, metadata, involved string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q%s},"reason":"Elected","type":"Normal",`+
			`"involvedObject":{"kind":"Service","namespace":%q,"name":"cart"},"source":{"component":"p","host":"anywhere"}}`,
			name, metadata, involved)
	}
	long := strings.Repeat("x", 9<<10)
	var out strings.Builder
	masked := regexp.MustCompile(`meta: [0-9a-f-]+|made-[a-z0-9]{5}|apiserver-[a-z0-9]{5} `)
	for _, ask := range []struct {
		title, who, method, path, body string
		header                         http.Header
	}{
		{"makes a lease", "leader", "POST", shopLeases, leaseBody("shop", `"name":"a","annotations":{"lockstep.dev/source":"x"},`+
			`"managedFields":[{"manager":"m","operation":"Update","apiVersion":"coordination.k8s.io/v1"}],`+
			`"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart-1-a","uid":"shop-cart-1-a-uid"}]`,
			`"holderIdentity":"x"`), nil},
		{"that is there", "leader", "POST", shopLeases, leaseBody("shop", `"name":"a"`, ""), nil},
		{"with another's name for the rest", "leader", "POST", shopLeases, leaseBody("shop", `"generateName":"made-"`, ""), nil},
		{"without a name", "leader", "POST", shopLeases, leaseBody("shop", `"labels":{}`, ""), nil},
		{"with a name that is none", "leader", "POST", shopLeases, leaseBody("shop", `"name":"A_b"`, ""), nil},
		{"for less than no time", "leader", "POST", shopLeases, leaseBody("shop", `"name":"b"`, `"leaseDurationSeconds":-1`), nil},
		{"asks only", "leader", "POST", shopLeases + "?dryRun=All", leaseBody("shop", `"name":"dry"`, ""), nil},
		{"and none was made", "leader", "GET", shopLeases + "/dry", "", nil},
		{"updates it", "leader", "PUT", shopLeases + "/a",
			leaseBody("shop", `"name":"a","resourceVersion":"NOW"`, `"holderIdentity":"y"`), nil},
		{"from what it was", "leader", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"a","resourceVersion":"1"`, ""), nil},
		{"from what it will be", "leader", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"a","resourceVersion":"999999"`, ""), nil},
		{"from what is no revision", "leader", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"a","resourceVersion":"x"`, ""), nil},
		{"from whatever it is", "leader", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"a"`, ""), nil},
		{"of another uid", "leader", "PUT", shopLeases + "/a",
			leaseBody("shop", `"name":"a","uid":"x","resourceVersion":"NOW"`, ""), nil},
		{"of another name", "leader", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"b","resourceVersion":"NOW"`, ""), nil},
		{"that is not there", "leader", "PUT", shopLeases + "/none", leaseBody("shop", `"name":"none","resourceVersion":"1"`, ""), nil},
		{"patches it", "leader", "PATCH", shopLeases + "/a", `{"spec":{"holderIdentity":"z"}}`, nil},
		{"from what it was", "leader", "PATCH", shopLeases + "/a", `{"metadata":{"resourceVersion":"1"}}`, nil},
		{"to be of no revision", "leader", "PATCH", shopLeases + "/a",
			`{"metadata":{"resourceVersion":""},"spec":{"holderIdentity":"q"}}`, nil},
		{"as dry as before", "leader", "PATCH", shopLeases + "/a?dryRun=All", `{"spec":{"holderIdentity":"dry"}}`, nil},
		{"applies it", "leader", "PATCH", shopLeases + "/a?fieldManager=m", leaseBody("shop", `"name":"a"`, ""),
			http.Header{"Content-Type": {"application/apply-patch+yaml"}}},
		{"holds it back", "leader", "PATCH", shopLeases + "/a", `{"metadata":{"finalizers":["example.com/x"]}}`, nil},
		{"has it end", "leader", "PATCH", shopLeases + "/a", `{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}`, nil},
		{"makes it too large", "leader", "PATCH", shopLeases + "/a", `{"metadata":{"annotations":{"a":"` + long + `"}}}`, nil},
		{"makes one too large", "leader", "POST", shopLeases,
			leaseBody("shop", `"name":"large","annotations":{"a":"`+long+`"}`, ""), nil},
		{"as somebody else", "leader", "POST", shopLeases, leaseBody("shop", `"name":"b"`, ""),
			http.Header{"Impersonate-User": {"system:serviceaccount:shop:root"}}},
		{"in another namespace", "leader", "POST", leasesOf("bank"), leaseBody("bank", `"name":"a"`, ""), nil},
		{"in a body of another namespace", "leader", "POST", shopLeases, leaseBody("bank", `"name":"a"`, ""), nil},
		{"without a role", "default", "POST", shopLeases, leaseBody("shop", `"name":"b"`, ""), nil},
		{"without a role", "default", "PUT", shopLeases + "/a", leaseBody("shop", `"name":"a","resourceVersion":"NOW"`, ""), nil},
		{"as a person", "viewer", "POST", shopLeases, leaseBody("shop", `"name":"b"`, ""), nil},
		{"as a node", "node", "POST", shopLeases, leaseBody("shop", `"name":"b"`, ""), nil},
		{"in a namespace that ends", "root", "POST", leasesOf("ending"), leaseBody("ending", `"name":"a"`, ""), nil},
		{"in none", "root", "POST", leasesOf("nowhere"), leaseBody("nowhere", `"name":"a"`, ""), nil},
		{"in one with a quota", "root", "POST", leasesOf("bank"), leaseBody("bank", `"name":"a"`, ""), nil},
		{"in one with a quota", "root", "POST", leasesOf("bank"), leaseBody("bank", `"name":"b"`, ""), nil},
		{"asks only", "root", "POST", leasesOf("bank") + "?dryRun=All", leaseBody("bank", `"name":"b"`, ""), nil},
		{"a heartbeat", "root", "POST", leasesOf("kube-node-lease"), leaseBody("kube-node-lease", `"name":"n9"`, ""), nil},
		{"a heartbeat", "root", "PATCH", leasesOf("kube-node-lease") + "/n1", `{"spec":{"holderIdentity":"z"}}`, nil},
		{"a heartbeat", "root", "DELETE", leasesOf("kube-node-lease") + "/n1", "", nil},
		{"an API server's", "root", "POST", leasesOf("kube-system"), leaseBody("kube-system", `"name":"apiserver-x"`, ""), nil},
		{"an API server's", "root", "POST", leasesOf("kube-system"), leaseBody("kube-system", `"generateName":"apiserver-"`, ""), nil},
		{"an API server's", "root", "POST", leasesOf("kube-system"),
			leaseBody("kube-system", `"name":"x","labels":{"apiserver.kubernetes.io/identity":"kube-apiserver"}`, ""), nil},
		{"an API server's", "root", "PATCH", leasesOf("kube-system") + "/apiserver-abc", `{"metadata":{"labels":null}}`, nil},
		{"an API server's", "root", "DELETE", leasesOf("kube-system") + "/apiserver-abc", "", nil},
		{"one of its own there", "root", "POST", leasesOf("kube-system"), leaseBody("kube-system", `"name":"x"`, ""), nil},
		{"to be an API server's", "root", "PATCH", leasesOf("kube-system") + "/x",
			`{"metadata":{"labels":{"apiserver.kubernetes.io/identity":"kube-apiserver"}}}`, nil},
		{"what a manifest states", "leader", "PATCH", shopLeases + "/stated", `{"spec":{"holderIdentity":"z"}}`, nil},
		{"what a manifest states", "leader", "DELETE", shopLeases + "/stated", "", nil},
		{"all of them", "root", "DELETE", shopLeases, "", nil},
		{"all of all namespaces", "root", "DELETE", "/apis/coordination.k8s.io/v1/leases", "", nil},
		{"all heartbeats", "root", "DELETE", leasesOf("kube-node-lease"), "", nil},
		{"all there", "root", "DELETE", leasesOf("kube-system"), "", nil},
		{"all but those", "root", "DELETE", leasesOf("kube-system") + "?labelSelector=!apiserver.kubernetes.io/identity", "", nil},
		{"which is gone", "root", "GET", leasesOf("kube-system") + "/x", "", nil},
		{"all of another namespace", "leader", "DELETE", leasesOf("bank"), "", nil},
		{"all without a role", "default", "DELETE", shopLeases, "", nil},
		{"all as a person", "viewer", "DELETE", shopLeases, "", nil},
		{"all as a node", "node", "DELETE", leasesOf("kube-node-lease"), "", nil},
		{"and what they own not", "leader", "DELETE", shopLeases + "?propagationPolicy=Orphan&fieldSelector=metadata.name=a", "", nil},
		{"one of them, asks only", "leader", "DELETE", shopLeases + "?dryRun=All&fieldSelector=metadata.name=a", "", nil},
		{"and it is there", "leader", "GET", shopLeases + "/a", "", nil},
		{"ends another's", "leader", "DELETE", shopLeases + "/a",
			`{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"other"}}`, nil},
		{"ends what was", "leader", "DELETE", shopLeases + "/a",
			`{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"1"}}`, nil},
		{"and what it owns not", "leader", "DELETE", shopLeases + "/a?propagationPolicy=Orphan", "", nil},
		{"asks only", "leader", "DELETE", shopLeases + "/a?dryRun=All", "", nil},
		{"and it is there", "leader", "GET", shopLeases + "/a", "", nil},
		{"ends it", "leader", "DELETE", shopLeases + "/a",
			`{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"NOW"}}`, nil},
		{"again", "leader", "DELETE", shopLeases + "/a", "", nil},
		{"patches what is gone", "leader", "PATCH", shopLeases + "/a", `{"spec":{"holderIdentity":"z"}}`, nil},

		{"tells", "leader", "POST", shopEvents, event("e", "", "shop"), nil},
		{"that it told", "leader", "POST", shopEvents, event("e", "", "shop"), nil},
		{"that it told again", "leader", "PATCH", shopEvents + "/e", `{"count":2,"message":"twice"}`, nil},
		{"of what it told long ago", "leader", "PATCH", shopEvents + "/gone", `{"count":2}`, nil},
		{"of another namespace", "leader", "POST", shopEvents, event("f", "", "bank"), nil},
		{"in another namespace", "leader", "POST", "/api/v1/namespaces/bank/events", event("f", "", "bank"), nil},
		{"in a namespace that ends", "root", "POST", "/api/v1/namespaces/ending/events", event("f", "", "ending"), nil},
		{"with an owner", "leader", "POST", shopEvents,
			event("f", `,"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart-1-a","uid":"shop-cart-1-a-uid"}]`, "shop"), nil},
		{"with a finalizer", "leader", "PATCH", shopEvents + "/e", `{"metadata":{"finalizers":["example.com/x"]}}`, nil},
		{"much", "leader", "POST", shopEvents, event("f", `,"annotations":{"a":"`+long+`"}`, "shop"), nil},
		{"very much", "leader", "POST", shopEvents, event("f", `,"annotations":{"a":"`+strings.Repeat(long, 10)+`"}`, "shop"), nil},
		{"without a role", "default", "POST", shopEvents, event("f", "", "shop"), nil},
		{"with another's name", "leader", "POST", shopEvents, event("g", `,"annotations":{"lockstep.dev/told-by":"me"}`, "shop"), nil},
		{"writes it anew", "root", "PUT", shopEvents + "/e", event("e", "", "shop"), nil},
		{"without a role", "default", "DELETE", shopEvents + "/e", "", nil},
		{"as a person", "viewer", "DELETE", shopEvents + "/e", "", nil},
		{"as a node", "node", "DELETE", shopEvents + "/e", "", nil},
		{"takes it back", "root", "DELETE", shopEvents + "/e", "", nil},
		{"what a node told", "leader", "PATCH", shopEvents + "/cart-1-a.1", `{"message":"nothing happened"}`, nil},
		{"what a node told", "leader", "PUT", shopEvents + "/cart-1-a.1", event("cart-1-a.1", "", "shop"), nil},
		{"what a node told", "leader", "DELETE", shopEvents + "/cart-1-a.1", "", nil},
		{"what a node told", "root", "DELETE", newEvents + "/cart-1-a.1", "", nil},
		{"all, and what a node told", "leader", "DELETE", shopEvents, "", nil},
		{"and all are there", "leader", "GET", shopEvents + "/g", "", nil},
		{"all of its own", "leader", "DELETE", shopEvents + "?fieldSelector=source=p", "", nil},
		{"which are gone", "leader", "GET", shopEvents + "/g", "", nil},
		{"all of all namespaces", "root", "DELETE", "/api/v1/events", "", nil},
		{"all without a role", "default", "DELETE", newEvents, "", nil},

		{"what Git states", "root", "POST", "/api/v1/namespaces/shop/configmaps",
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"made"}}`, nil},
		{"what Git states", "root", "DELETE", "/api/v1/namespaces/shop/pods/cart-1-a", "", nil},
		{"what Git states", "root", "PATCH", "/apis/apps/v1/namespaces/shop/deployments/cart/scale", `{"spec":{"replicas":9}}`, nil},
	} {
		now := "0"
		if o := s.store.View().Get(kinds.For[*coordinationv1.Lease]().Key("shop", "a")); o != nil {
			now = o.GetResourceVersion()
		}
		code, body := s.askWith(who[ask.who], ask.header, ask.method, ask.path, strings.ReplaceAll(ask.body, "NOW", now))
		told := "no Status"
		var status metav1.Status
		if json.Unmarshal([]byte(body), &status) == nil && status.Kind == "Status" {
			told = strings.TrimSpace(fmt.Sprintf("%s %s", status.Reason, status.Message))
			if details := status.Details; details != nil && details.Causes != nil {
				told += fmt.Sprintf(" %v", details.Causes)
			}
		} else if code < 300 {
			var o metav1.PartialObjectMetadata
			if err := json.Unmarshal([]byte(body), &o); err != nil {
				t.Fatal(err)
			}
			told = fmt.Sprintf("%s owners=%d annotations=%v managed=%d",
				o.Name, len(o.OwnerReferences), o.Annotations, len(o.ManagedFields))
		}
		fmt.Fprintf(&out, "%s: %s %s %s\n    %d %s\n", ask.title, ask.who, ask.method, ask.path, code, masked.ReplaceAllString(told, "*"))
	}
	printed(t, "programs.txt", out.String())
}

// TestLeasesOfNamespaceAreBounded: some dozens of programs ask for the last places at once.
func TestLeasesOfNamespaceAreBounded(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	for i := range maxLeases - 3 {
		s.put(&coordinationv1.Lease{ObjectMeta: named("shop", fmt.Sprintf("l-%d", i))})
	}
	leases := client(t, s.program("leader")).CoordinationV1().Leases("shop")
	var made, refused atomic.Int32
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			_, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("new-%d", i)}},
				metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "namespace shop has 1000 of them, and may have no more"):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 3 || refused.Load() != 27 {
		t.Errorf("%d were made, %d refused", made.Load(), refused.Load())
	}
	if err := leases.Delete(t.Context(), "l-7", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "again"}},
		metav1.CreateOptions{}); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

// TestProgramsHaveBudgets: an account that has told or written its share waits, whichever of its pods asks; nobody else does.
func TestProgramsHaveBudgets(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	event := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q},"involvedObject":{"kind":"Service",`+
			`"namespace":"shop","name":"cart"}}`, name)
	}
	const leader = "account/system:serviceaccount:shop:leader"
	s.server.budgets.events.Spend(leader, eventBurst, time.Now().Add(time.Minute))
	if code, body := s.ask(s.program("leader"), "POST", shopEvents, event("a")); code != http.StatusTooManyRequests {
		t.Errorf("one that has told a thousand events: %d %s", code, body)
	}
	if code, body := s.ask(s.program("leader"), "POST", shopLeases, leaseBody("shop", `"name":"a"`, "")); code != http.StatusCreated {
		t.Errorf("its lease: %d %s", code, body)
	}
	s.server.budgets.stored.Spend(leader, writeBurst, time.Now().Add(time.Minute))
	if code, body := s.ask(s.program("leader"), "POST", shopLeases, leaseBody("shop", `"name":"b"`, "")); code !=
		http.StatusTooManyRequests {
		t.Errorf("one that has written its share: %d %s", code, body)
	}
	if code, body := s.ask(s.program("root"), "POST", shopEvents, event("b")); code != http.StatusCreated {
		t.Errorf("another: %d %s", code, body)
	}
}

// TestLeasesAreComparedAndSwapped: of those that write from the same revision one wins, through whichever server they write.
func TestLeasesAreComparedAndSwapped(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	other := s.beside()
	clients := []kubernetes.Interface{client(t, s.program("leader")), client(t, other.program("leader"))}
	ctx := t.Context()
	if _, err := clients[0].CoordinationV1().Leases("shop").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "count"},
		Spec: coordinationv1.LeaseSpec{LeaseTransitions: new(int32)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 10
	var all sync.WaitGroup
	for i := range writers {
		leases := clients[i%2].CoordinationV1().Leases("shop")
		all.Go(func() {
			for won := 0; won < each && ctx.Err() == nil; {
				lease, err := leases.Get(ctx, "count", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				*lease.Spec.LeaseTransitions++
				switch written, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); {
				case err == nil && *written.Spec.LeaseTransitions == *lease.Spec.LeaseTransitions:
					won++
				case !apierrors.IsConflict(err):
					t.Errorf("%v, %v", written, err)
					return
				}
			}
		})
	}
	all.Wait()
	lease, err := clients[0].CoordinationV1().Leases("shop").Get(ctx, "count", metav1.GetOptions{})
	if err != nil || *lease.Spec.LeaseTransitions != writers*each {
		t.Errorf("%v, %v", lease, err)
	}
	// What one server has just been told, the other knows.
	for i := range 20 {
		a, b := clients[i%2].CoordinationV1().Leases("shop"), clients[1-i%2].CoordinationV1().Leases("shop")
		made, err := a.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "quick"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made.Spec.HolderIdentity = new(string("b"))
		if _, err := b.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Errorf("an update of what another server made: %v", err)
		}
		if err := a.Delete(ctx, "quick", metav1.DeleteOptions{}); err != nil {
			t.Errorf("its end: %v", err)
		}
	}
}

// elector runs for a lease until ctx ends, and says on led when it leads and when it does so no more.
func elector(ctx context.Context, t *testing.T, config *rest.Config, name string, led func(name string, leads bool)) {
	t.Helper()
	c := client(t, config)
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	t.Cleanup(broadcaster.Shutdown)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")})
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: "shop", Name: "leader"}, Client: c.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name,
				EventRecorder: broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: name})},
		},
		LeaseDuration: 6 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: 200 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { led(name, true) },
			OnStoppedLeading: func() { led(name, false) },
		},
	})
}

// TestLeaderElection: of two programs one leads; when it is killed, and gives nothing back, the other does, and both are told of.
func TestLeaderElection(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	type told struct {
		name  string
		leads bool
	}
	news := make(chan told, 10)
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	kill := map[string]context.CancelFunc{}
	for _, name := range []string{"one", "two"} {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		kill[name] = cancel
		config := s.program("leader")
		all.Go(func() { elector(ctx, t, config, name, func(name string, leads bool) { news <- told{name, leads} }) })
	}
	next := func() told {
		t.Helper()
		select {
		case n := <-news:
			return n
		case <-time.After(60 * time.Second):
			t.Fatal("nobody leads")
			return told{}
		}
	}
	first := next()
	killed := time.Now()
	kill[first.name]()
	if n := next(); n != (told{first.name, false}) {
		t.Fatalf("after %s was killed: %v", first.name, n)
	}
	second := next()
	if second.name == first.name || !second.leads {
		t.Fatalf("after %s: %v", first.name, second)
	}
	if took := time.Since(killed); took < 2*time.Second {
		t.Errorf("the other leads after %s, while the first one's lease holds", took)
	}
	reader := client(t, s.viewer())
	lease, err := reader.CoordinationV1().Leases("shop").Get(t.Context(), "leader", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != second.name || *lease.Spec.LeaseTransitions != 1 {
		t.Errorf("the lease is %v, %v", lease, err)
	}
	for late := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		events, err := reader.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=LeaderElection"})
		var messages []string
		for _, e := range events.Items {
			messages = append(messages, e.Message)
		}
		text := strings.Join(messages, "\n")
		if strings.Contains(text, first.name+" became leader") && strings.Contains(text, second.name+" became leader") {
			break
		}
		if err != nil || time.Now().After(late) {
			t.Fatalf("events: %q, %v", text, err)
		}
	}
}

// TestRecorder: client-go's recorder writes an event once, and counts it when it comes again.
func TestRecorder(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	c := client(t, s.program("leader"))
	broadcaster := record.NewBroadcaster(record.WithContext(t.Context()))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "operator"})
	reader := client(t, s.viewer())
	service, err := reader.CoreV1().Services("shop").Get(t.Context(), "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for count := int32(1); count <= 3; count++ {
		recorder.Eventf(service, corev1.EventTypeWarning, "Odd", "it is %s", "odd")
		for late := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			events, err := reader.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Odd"})
			if err == nil && len(events.Items) == 1 && events.Items[0].Count == count && events.Items[0].Source.Component == "operator" {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("after %d: %v, %v", count, events, err)
			}
		}
	}
}

// TestProgramsAreToldTheTruth: who asks what a program may write is answered as the program is.
func TestProgramsAreToldTheTruth(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	for _, test := range []struct {
		user, verb, group, resource, namespace, name string
		want                                         bool
	}{
		{"leader", "create", "coordination.k8s.io", "leases", "shop", "", true},
		{"leader", "create", "coordination.k8s.io", "leases", "bank", "", false},
		{"leader", "deletecollection", "coordination.k8s.io", "leases", "shop", "", true},
		{"root", "deletecollection", "coordination.k8s.io", "leases", "", "", false},
		{"leader", "patch", "", "events", "shop", "e", true},
		{"leader", "create", "", "configmaps", "shop", "", false},
		{"root", "create", "coordination.k8s.io", "leases", "", "", true},
		{"root", "update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", false},
		{"root", "create", "", "configmaps", "shop", "", false},
		{"default", "create", "coordination.k8s.io", "leases", "shop", "", false},
	} {
		body := fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":%q,`+
			`"resourceAttributes":{"verb":%q,"group":%q,"resource":%q,"namespace":%q,"name":%q}}}`,
			"system:serviceaccount:shop:"+test.user, test.verb, test.group, test.resource, test.namespace, test.name)
		code, answer := s.ask(s.viewer(), "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
		if got := strings.Contains(answer, `"allowed":true`); code != http.StatusCreated || got != test.want {
			t.Errorf("%+v: %d %s", test, code, answer)
		}
	}
	_, answer := s.ask(s.program("leader"), "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectRulesReview","spec":{"namespace":"shop"}}`)
	for _, rule := range []string{
		`["coordination.k8s.io"],"resources":["leases"]}`, `[""],"resources":["events"]}`, `["events.k8s.io"],"resources":["events"]}`,
	} {
		rule = `{"verbs":["create","delete","deletecollection","patch","update"],"apiGroups":` + rule
		if !strings.Contains(answer, rule) {
			t.Errorf("no %s in %s", rule, answer)
		}
	}
	_, answer = s.ask(s.viewer(), "GET", "/apis/coordination.k8s.io/v1", "")
	if !strings.Contains(answer, `"verbs":["create","delete","deletecollection","get","list","patch","update","watch"]`) {
		t.Errorf("discovery: %s", answer)
	}
}

// TestCollectionsEnd: of many leases and events those go that a program's selectors take, and no others.
func TestCollectionsEnd(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	for i := range 300 {
		lease := &coordinationv1.Lease{ObjectMeta: named("shop", fmt.Sprintf("l-%d", i))}
		lease.Labels = map[string]string{"third": fmt.Sprint(i % 3)}
		s.put(lease)
	}
	c := client(t, s.program("leader"))
	first := metav1.ListOptions{LabelSelector: "third=0"}
	if err := c.CoordinationV1().Leases("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, first); err != nil {
		t.Fatal(err)
	}
	first.LabelSelector, first.Limit = "third=1", 40
	if err := c.CoordinationV1().Leases("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, first); err != nil {
		t.Fatal(err)
	}
	reader := client(t, s.viewer())
	left, err := reader.CoordinationV1().Leases("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 160 {
		t.Errorf("%d leases are left, %v", len(left.Items), err)
	}
	for _, name := range []string{"a", "b"} {
		labels, of := map[string]string{"set": "one"}, corev1.ObjectReference{Namespace: "shop"}
		if _, err := c.CoreV1().Events("shop").Create(t.Context(), &corev1.Event{InvolvedObject: of,
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.EventsV1().Events("shop").Create(t.Context(), &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-new", Labels: labels}, Regarding: of, EventTime: metav1.NowMicro(),
			Action: "Do", Reason: "Test", Type: "Normal", ReportingController: "c", ReportingInstance: "i",
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	one := metav1.ListOptions{LabelSelector: "set=one", FieldSelector: "reportingController=c"}
	if err := c.EventsV1().Events("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, one); err != nil {
		t.Error(err)
	}
	told, err := reader.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "set=one"})
	if err != nil || len(told.Items) != 2 {
		t.Errorf("%v, %v", told, err)
	}
	one.FieldSelector = ""
	if err := c.CoreV1().Events("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, one); err != nil {
		t.Error(err)
	}
	all, err := reader.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(all.Items) != 1 || all.Items[0].Name != "cart-1-a.1" {
		t.Errorf("%v, %v", all, err)
	}
}
