package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/disruption"
	"lockstep/store/view"
)

// budgetOf is one of shop that selects the pods with app=NAME, and allows what it is told to.
func budgetOf(name string, allowed, current, desired int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: named("shop", name),
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
		Status: policyv1.PodDisruptionBudgetStatus{
			ObservedGeneration: 1, DisruptionsAllowed: allowed, CurrentHealthy: current, DesiredHealthy: desired, ExpectedPods: current},
	}
}

// evictable is a running pod of shop with app=APP, ready or not.
func evictable(app, name string, ready bool) *corev1.Pod {
	p := testPod("shop", name, "n1")
	p.Labels = map[string]string{"app": app}
	p.Status.Conditions = nil
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// evictingCluster is programCluster with pods and budgets, and the account mover, whom a role in shop lets evict pods.
func evictingCluster() []kinds.Object {
	lets := &rbacv1.Role{ObjectMeta: named("shop", "evicts"), Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/eviction"}}}}
	mover := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "mover"}
	out := append(programCluster(), lets, bindingOf("shop", "evicts", "evicts", mover, rbacv1.Subject{Kind: rbacv1.UserKind, Name: "jane"}),
		&corev1.ServiceAccount{ObjectMeta: named("shop", "mover")})
	strained, behind, waiting, failing := budgetOf("strained", 0, 1, 1), budgetOf("behind", 3, 1, 1), budgetOf("stale", 1, 2, 1),
		budgetOf("failing", 0, 0, 0)
	waiting.Status.ObservedGeneration = 0
	failing.Status.CurrentHealthy = 1
	failing.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
		Reason: policyv1.SyncFailedReason, Message: "no scale"}}
	always := budgetOf("always", 0, 0, 1)
	always.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow)
	twice := budgetOf("second", 1, 2, 1)
	twice.Spec.Selector.MatchLabels["app"] = "twice"
	for _, b := range []*policyv1.PodDisruptionBudget{strained, behind, waiting, failing, always, twice,
		budgetOf("twice", 1, 2, 1), budgetOf("spare", 1, 3, 2), budgetOf("lame", 0, 0, 1), budgetOf("enough", 0, 1, 1)} {
		out = append(out, b)
	}
	ended, pending, kept := evictable("strained", "ended", false), evictable("strained", "pending", false), evictable("free", "kept", true)
	ended.Status.Phase, pending.Status.Phase, pending.Spec.NodeName = corev1.PodSucceeded, corev1.PodPending, ""
	kept.Finalizers = []string{"example.com/kept"}
	for _, p := range []*corev1.Pod{ended, pending, kept, evictable("strained", "strained", true), evictable("behind", "behind", true),
		evictable("stale", "stale-a", true), evictable("stale", "stale-b", true), evictable("failing", "failing", true),
		evictable("always", "always", false), evictable("lame", "lame", false), evictable("twice", "twice-a", true),
		evictable("enough", "enough-a", true), evictable("enough", "enough-b", false),
		evictable("spare", "spare-a", true), evictable("spare", "spare-b", true), evictable("spare", "spare-c", true),
		evictable("free", "free-a", true), evictable("free", "free-b", true), evictable("free", "free-c", true)} {
		out = append(out, p)
	}
	return out
}

// TestProgramsEvict is what programs are answered that evict pods, and what became of these: in testdata/evict.txt.
func TestProgramsEvict(t *testing.T) {
	s := newTestServer(t, nil, evictingCluster()...)
	who := map[string]*rest.Config{"mover": s.program("mover"), "leader": s.program("leader"), "root": s.program("root"),
		"viewer": s.viewer(), "jane": s.user("jane"), "node": s.node("n1")}
	eviction := func(name, options string) string {
		if options != "" {
			options = `,"deleteOptions":{` + options + `}`
		}
		return fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"shop","name":%q}%s}`, name, options)
	}
	var out strings.Builder
	for _, ask := range []struct{ title, who, pod, query, body string }{
		{"without a budget", "mover", "free-a", "", eviction("free-a", "")},
		{"again, while it ends", "mover", "free-a", "", eviction("free-a", "")},
		{"faster", "mover", "free-a", "", eviction("free-a", `"gracePeriodSeconds":1`)},
		{"asks only", "mover", "free-b", "", eviction("free-b", `"dryRun":["All"]`)},
		{"asks only", "mover", "free-b", "?dryRun=All", eviction("free-b", "")},
		{"another", "mover", "free-b", "", eviction("free-b", `"preconditions":{"uid":"other"}`)},
		{"as it was", "mover", "free-b", "", eviction("free-b", `"preconditions":{"resourceVersion":"1"}`)},
		{"before what it owns", "mover", "free-b", "", eviction("free-b", `"propagationPolicy":"Foreground"`)},
		{"in less than no time", "mover", "free-b", "", eviction("free-b", `"propagationPolicy":"Sideways"`)},
		{"of another name", "mover", "free-b", "", eviction("free-c", "")},
		{"of no name", "mover", "free-b", "", `{"apiVersion":"policy/v1","kind":"Eviction"}`},
		{"of another kind", "mover", "free-b", "", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"free-b"}}`},
		{"what is no object", "mover", "free-b", "", `{`},
		{"much", "mover", "free-b", "", eviction("free-b", `"dryRun":["`+strings.Repeat("x", 9<<10)+`"]`)},
		{"what is not there", "mover", "none", "", eviction("none", "")},
		{"at once", "mover", "free-b", "", eviction("free-b", `"gracePeriodSeconds":0`)},
		{"held by a finalizer", "mover", "kept", "", eviction("kept", `"gracePeriodSeconds":0`)},
		{"of a budget that has one to spare", "mover", "spare-a", "", eviction("spare-a", "")},
		{"which is spent", "mover", "spare-b", "", eviction("spare-b", "")},
		{"of one that has none", "mover", "strained", "", eviction("strained", "")},
		{"asks only", "mover", "strained", "?dryRun=All", eviction("strained", "")},
		{"that has ended", "mover", "ended", "", eviction("ended", "")},
		{"that is bound to no node", "mover", "pending", "", eviction("pending", "")},
		{"of one whose status says too much", "mover", "behind", "", eviction("behind", "")},
		{"of one that nobody has looked at", "mover", "stale-a", "", eviction("stale-a", "")},
		{"of one that cannot be told", "mover", "failing", "", eviction("failing", "")},
		{"of two", "mover", "twice-a", "", eviction("twice-a", "")},
		{"unready, of a lame one", "mover", "lame", "", eviction("lame", "")},
		{"unready, of one that has enough", "mover", "enough-b", "", eviction("enough-b", "")},
		{"unready, of one that always lets them", "mover", "always", "", eviction("always", "")},
		{"without a role", "leader", "free-c", "", eviction("free-c", "")},
		{"as a person whom a role lets", "jane", "free-c", "", eviction("free-c", "")},
		{"as a person", "viewer", "free-c", "", eviction("free-c", "")},
		{"as the node of the pod", "node", "free-c", "", eviction("free-c", "")},
		{"whoever may everything", "root", "free-c", "", eviction("free-c", "")},
	} {
		code, body := s.ask(who[ask.who], "POST", "/api/v1/namespaces/shop/pods/"+ask.pod+"/eviction"+ask.query, ask.body)
		var status metav1.Status
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			t.Fatalf("%s: %s", ask.title, body)
		}
		fmt.Fprintf(&out, "%s: %s %s\n    %s\n", ask.title, ask.who, ask.pod, toldOf(code, status))
	}
	v := s.store.View()
	for p := range view.List[*corev1.Pod](v, "shop") {
		state := "stays"
		if p.DeletionTimestamp != nil {
			state = fmt.Sprintf("ends, grace %d", *p.DeletionGracePeriodSeconds)
		}
		if c := podstatus.Condition(&p.Status, corev1.DisruptionTarget); c != nil {
			state += fmt.Sprintf(", %s=%s %s %q", c.Type, c.Status, c.Reason, c.Message)
		}
		fmt.Fprintf(&out, "pod %s: %s\n", p.Name, state)
	}
	for b := range view.List[*policyv1.PodDisruptionBudget](v, "shop") {
		fmt.Fprintf(&out, "budget %s: allows %d\n", b.Name, b.Status.DisruptionsAllowed)
	}
	printed(t, "evict.txt", out.String())
	eventually.True(t, 30*time.Second, "an event names who has evicted a pod", func() bool {
		for e := range view.List[*corev1.Event](s.store.View(), "shop") {
			if e.InvolvedObject.Name == "spare-a" && e.Reason == podstatus.EvictedByAPI {
				return e.Message == "Evicted by system:serviceaccount:shop:mover"
			}
		}
		return false
	})
}

// toldOf is a Status in a line: its causes and when to ask again, too.
func toldOf(code int, status metav1.Status) string {
	told := fmt.Sprintf("%d %s %s", code, status.Reason, status.Message)
	if d := status.Details; d != nil {
		for _, c := range d.Causes {
			told += fmt.Sprintf(" {%s: %s}", c.Type, c.Message)
		}
		if d.RetryAfterSeconds > 0 {
			told += fmt.Sprintf(" again after %d s", d.RetryAfterSeconds)
		}
	}
	return strings.TrimSpace(told)
}

// TestEvictionsAtOnce: of many programs that evict at the same time no more are let than the budget allows, also where they ask two
// control planes.
func TestEvictionsAtOnce(t *testing.T) {
	const pods, allowed = 12, 5
	cluster := evictingCluster()
	cluster = append(cluster, budgetOf("many", allowed, pods, pods-allowed))
	for i := range pods {
		cluster = append(cluster, evictable("many", fmt.Sprintf("many-%d", i), true))
	}
	s := newTestServer(t, nil, cluster...)
	servers := []*rest.Config{s.program("mover"), s.beside().program("mover")}
	answers := make([]error, pods)
	var all sync.WaitGroup
	for i := range pods {
		c := client(t, servers[i%2])
		all.Go(func() {
			answers[i] = c.CoreV1().Pods("shop").EvictV1(t.Context(), &policyv1.Eviction{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("many-%d", i)}})
		})
	}
	all.Wait()
	let := 0
	for _, err := range answers {
		switch {
		case err == nil:
			let++
		case !apierrors.IsTooManyRequests(err):
			t.Error(err)
		}
	}
	ending := 0
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		if p.Labels["app"] == "many" && p.DeletionTimestamp != nil {
			ending++
		}
	}
	if let != allowed || ending != allowed {
		t.Errorf("%d were let and %d pods end, of a budget that allows %d", let, ending, allowed)
	}
}

// TestWordsOfProgramsLetNobodyGo: whatever a program writes into a budget's status, no pod is evicted that the decision would not let,
// neither before nor after the decision, and what it takes back gives nothing.
func TestWordsOfProgramsLetNobodyGo(t *testing.T) {
	s := newTestServer(t, nil, append(evictingCluster(), binding("", "tells", "cluster-admin",
		rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "root"}))...)
	liar, merges := s.program("root"), http.Header{"Content-Type": {"application/merge-patch+json"}}
	tell := func(budget, status string) int {
		code, _ := s.askWith(liar, merges, "PATCH", "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/"+budget+"/status",
			`{"status":`+status+`}`)
		return code
	}
	evict := func(pod string) int {
		code, _ := s.ask(s.program("mover"), "POST", "/api/v1/namespaces/shop/pods/"+pod+"/eviction",
			fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":"shop","name":%q}}`, pod))
		return code
	}
	decided := func(budget string) *policyv1.PodDisruptionBudget {
		v := s.store.View()
		key := kinds.For[*policyv1.PodDisruptionBudget]().Key("shop", budget)
		b := v.Get(key).(*policyv1.PodDisruptionBudget)
		d, err := disruption.New().Decide(v, key, s.server.now())
		if err != nil {
			t.Fatal(err)
		}
		if d.Status != nil {
			b = d.Status.(*policyv1.PodDisruptionBudget)
			s.put(b)
		}
		return b
	}
	for _, status := range []string{`{"disruptionsAllowed":9}`, `{"desiredHealthy":-1}`, `{"currentHealthy":9}`, `{"expectedPods":9}`,
		`{"observedGeneration":9}`, `{"disruptionsAllowed":9,"desiredHealthy":0,"disruptedPods":{"strained":"2026-01-02T03:04:05Z"}}`} {
		if code := tell("strained", status); code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", status, code)
		}
	}
	now := s.server.now().UTC().Format(time.RFC3339)
	for _, told := range []string{`{"disruptedPods":{"strained":"` + now + `"}}`, `{"disruptedPods":null}`} {
		if code := tell("strained", told); code != http.StatusOK {
			t.Fatalf("%s: %d", told, code)
		}
		before := evict("strained")
		b := decided("strained")
		if after := evict("strained"); before != http.StatusTooManyRequests || after != http.StatusTooManyRequests ||
			b.Status.DisruptionsAllowed != 0 {
			t.Errorf("%s: evictions are answered %d and %d, and the budget allows %d", told, before, after, b.Status.DisruptionsAllowed)
		}
	}
	// Of a budget that has one to spare a pod that is said to end takes that.
	if code := tell("spare", `{"disruptedPods":{"spare-a":"`+now+`"}}`); code != http.StatusOK {
		t.Fatal(code)
	}
	if code := evict("spare-b"); code != http.StatusTooManyRequests {
		t.Errorf("before the decision: %d", code)
	}
	if b := decided("spare"); b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("%+v", b.Status)
	}
	if code := evict("spare-b"); code != http.StatusTooManyRequests {
		t.Errorf("after the decision: %d", code)
	}
}
