package sync

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/forge/forgetest"
	"lockstep/sync/found"
)

// waitWith gives the deployment's one pod a reason to wait, as its node tells it.
func (w *world) waitWith(reason, message string) {
	w.t.Helper()
	p, _ := view.Get[*corev1.Pod](w.store.View(), "shop", "cart-1-a")
	p = p.DeepCopy()
	p.Spec.Containers = []corev1.Container{{Name: "cart", Image: "cart:bad"}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name:  "cart",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
	}}
	if err := w.put(p); err != nil {
		w.t.Fatal(err)
	}
}

// TestStatusChangesOnlyWithItsMeaning: a pull that is tried again and again is one failure.
func TestStatusChangesOnlyWithItsMeaning(t *testing.T) {
	w := newWorld(t)
	sha := w.push("first", map[string]string{"cart.yaml": cart})
	w.start()
	w.receives(sha, "pending")
	w.crash("ContainerCreating")
	for range 3 {
		w.waitWith("ErrImagePull", `failed to resolve reference "docker.io/library/cart:bad": docker.io/library/cart:bad: not found`)
		w.receives(sha, "failure: Deployment shop/cart: ImagePullBackOff, 0/2 ready: cart:bad: not found")
		time.Sleep(3 * passGap)
		w.waitWith("ImagePullBackOff", `Back-off pulling image "cart:bad": ErrImagePull: `+
			`failed to resolve reference "docker.io/library/cart:bad": docker.io/library/cart:bad: not found`)
		time.Sleep(3 * passGap)
	}
	if got := w.texts(sha, judged); len(got) != 2 {
		t.Errorf("statuses %q, want one pending and one failure", got)
	}
}

// TestLossIsDriftInAllWindows: what a revision loses once it was healthy is told as drift, and its verdict stays, in the
// forge and in the source's status; a silent node is named, once, however long it is silent.
func TestLossIsDriftInAllWindows(t *testing.T) {
	w := newWorld(t)
	var clock atomic.Int64
	at := func() time.Time { return time.Unix(1_900_000_000, clock.Load()) }
	sha := w.push("first", map[string]string{"cart.yaml": cart})
	w.start(func(o *Options) { o.Now = at })
	w.rollOut()
	w.receives(sha, "success: 2 objects in sync and healthy")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastHeartbeatTime: metav1.NewTime(at().Add(-40 * time.Second))}}}}
	if err := w.put(node); err != nil {
		t.Fatal(err)
	}
	w.crash("ContainerCreating", func(p *corev1.Pod) { p.Spec.NodeName = "b" })
	const loss = "node b has been silent for 40 s; Deployment shop/cart: 0/2 ready"
	w.until("the status tells the loss", func() bool { return w.status().Drift == loss })
	if got := w.status(); got.State != "success" || got.Message != "2 objects in sync and healthy" || got.Healthy != 1 {
		t.Errorf("status %+v", got)
	}
	for range 4 {
		clock.Add(int64(15 * time.Second)) // as long as a loss dwells until it is told
		d := w.deployment().DeepCopy()     // anything that wakes
		d.Annotations = map[string]string{"at": at().String()}
		if err := w.put(d); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * passGap)
	}
	w.until("the forge is told", func() bool { return len(w.texts(sha, judged+"/drift")) > 0 })
	if got := w.texts(sha, judged+"/drift"); len(got) != 1 || got[0] != "failure: "+loss {
		t.Errorf("drift %q", got)
	}
	list := w.texts(sha, judged)
	if got := list[len(list)-1]; got != "success: 2 objects in sync and healthy" {
		t.Errorf("the verdict became %q", got)
	}
	node.Status.Conditions[0].Status = corev1.ConditionTrue
	if err := w.put(node); err != nil {
		t.Fatal(err)
	}
	w.rollOut()
	lost := func() (f drift.Finding) {
		w.until("recorded", func() bool {
			all, _ := found.In(w.store.View(), found.Filter{})
			if len(all) == 1 {
				f = all[0]
			}
			return len(all) == 1
		})
		return f
	}
	if f := lost(); f.Kind != drift.Health || f.What != loss || f.Commit != sha || !f.Repaired.IsZero() || f.Since.After(f.Noticed) {
		t.Errorf("recorded %+v", f)
	}
	w.until("it is over", func() bool { return lost().How == "healthy again" && !lost().Repaired.IsZero() })
	w.until("nothing is lost", func() bool { return w.status().Drift == "" && w.status().State == "success" })
}

// TestForgeOutageIsInTheStatus: it is told how many statuses wait, and why, and no longer when they are there.
func TestForgeOutageIsInTheStatus(t *testing.T) {
	w := newWorld(t)
	w.forge.Outage(forgetest.Fault{Code: http.StatusServiceUnavailable})
	sha := w.push("first", map[string]string{"settings.yaml": strings.ReplaceAll(settings, "shop", "default")})
	w.start()
	w.until("told", func() bool {
		return strings.HasPrefix(w.status().ForgeError, "1 commit status waits for the forge: the forge answered 503")
	})
	w.forge.Heal()
	w.receives(sha, "success")
	w.until("over", func() bool { return w.status().ForgeError == "" })
}

// TestEmptyFolderIsAWarning: a folder in which nothing stands yet is no error; one that is emptied is held, with a remedy
// that a folder has.
func TestEmptyFolderIsAWarning(t *testing.T) {
	w := newWorld(t)
	w.work = t.TempDir()
	w.spec.Spec = v1alpha1.SourceSpec{Folder: w.work}
	w.start()
	w.until("warned", func() bool {
		return w.status().State == "success" && w.status().Message == "warning: no manifests (.yaml, .yml, .json) in the folder"
	})
	w.write(w.work, several(5))
	w.until("all", func() bool { return w.status().Objects == 5 && w.status().Message == "5 objects in sync and healthy" })
	for name := range several(5) {
		if err := os.Remove(filepath.Join(w.work, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.until("held", func() bool {
		return w.status().State == "error" &&
			strings.HasPrefix(w.status().Message, `held: no manifests, would delete all 5 objects; put them back, `+
				`or allow it with "prune: allow" in its Source document (--config)`)
	})
	if got := len(w.uids()); got != 5 {
		t.Errorf("%d objects are left", got)
	}
}

// TestLeftOutIsTold: the verdict and the source's status say what the source skips, also after a restart.
func TestLeftOutIsTold(t *testing.T) {
	const monitor = "apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: cart, namespace: shop}\n"
	w := newWorld(t)
	w.spec.Spec.IgnoreKinds = []string{"*.monitoring.coreos.com"}
	sha := w.push("first", map[string]string{"cart.yaml": cart, "monitor.yaml": monitor})
	_, stop := w.start()
	w.rollOut()
	const leftOut = "1 left out: 1 ServiceMonitor.monitoring.coreos.com"
	w.receives(sha, "success: 2 objects in sync and healthy; "+leftOut)
	w.until("the status tells it", func() bool { return w.status().LeftOut == leftOut })
	stop()
	w.push("without", map[string]string{"monitor.yaml": ""})
	w.start()
	w.until("nothing is left out", func() bool { return w.status().LeftOut == "" && w.status().State == "success" })
}

// TestWarningsAreTold: the verdict counts what a revision is warned of, and the source's status has it with its place, also
// after a restart; what the standards enforce refuses the revision at its place.
func TestWarningsAreTold(t *testing.T) {
	labelled := func(mode string) string {
		return strings.Replace(cart, "{name: shop}", "{name: shop, labels: {pod-security.kubernetes.io/"+mode+": baseline}}", 1)
	}
	w := newWorld(t)
	sha := w.push("first", map[string]string{"cart.yaml": labelled("warn") + "      hostNetwork: true\n"})
	_, stop := w.start()
	w.rollOut()
	w.receives(sha, "success: 2 objects in sync and healthy; 1 warning")
	const warning = `cart.yaml:13:5: Deployment shop/cart: spec.template.spec: would violate PodSecurity "baseline:latest": ` +
		`host namespaces (hostNetwork=true)`
	warned := func() bool { return len(w.status().Warnings) == 1 && w.status().Warnings[0] == warning }
	if !warned() {
		t.Errorf("warnings %q", w.status().Warnings)
	}
	stop()
	_, stop = w.start()
	w.until("the status still tells it", func() bool { return warned() && w.status().State == "success" })
	stop()
	enforced := w.push("enforced", map[string]string{"cart.yaml": strings.Replace(labelled("enforce"), "cart:1", "cart:2", 1) +
		"      hostNetwork: true\n"})
	_, stop = w.start()
	w.receives(enforced, `error: cart.yaml:13:5: Deployment shop/cart: spec.template.spec: violates PodSecurity "baseline:latest": `+
		`host namespaces (hostNetwork=true)`)
	stop()
	w.push("mended", map[string]string{"cart.yaml": labelled("enforce")})
	w.start()
	w.until("nothing is warned of", func() bool { return w.status().State != "error" && len(w.status().Warnings) == 0 })
}
