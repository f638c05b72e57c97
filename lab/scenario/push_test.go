package scenario

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/lab"
)

// TestPush pushes to two repositories, one change after the other, each to the cluster that the last one has left.
func TestPush(t *testing.T) {
	shop, poll := clone(t, "shop"), clone(t, "poll")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *repo, *repo)
	}{
		{"first push", firstPush},
		{"scale", scale},
		{"image", changeImage},
		{"rename", rename},
		{"delete", deleteObject},
		{"immutable field", immutableField},
		{"broken field", brokenField},
		{"empty", empty},
		{"force-push", forcePush},
		{"failure", failure},
		{"webhook", webhook},
		{"forge away", forgeAway},
		{"daemon killed", daemonKilled},
		{"node cut off", nodeCut},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			shop.t, poll.t = t, t
			step.run(t, shop, poll)
		}) {
			for _, h := range cluster.Hosts() {
				for _, service := range []string{lab.Daemon, lab.Agent} {
					if raw, err := os.ReadFile(h.LogFile(service)); err == nil {
						t.Logf("%s on %s:\n%s", service, h.Name, raw[max(0, len(raw)-4000):])
					}
				}
			}
			return // the next one builds on it
		}
	}
}

func firstPush(t *testing.T, shop, poll *repo) {
	shop.copy("testdata/shop/.")
	poll.copy("testdata/poll/.")
	a, b := shop.push("open"), poll.push("open")
	shop.rolledOut(a, 6)
	poll.rolledOut(b, 5)

	for source, running := range map[string][]corev1.Pod{"shop": pods(t, "shop", ""), "poll": pods(t, "default", "")} {
		nodes := map[string]int{}
		for _, p := range running {
			nodes[p.Spec.NodeName]++
		}
		if len(nodes) != len(cluster.Agents()) {
			t.Errorf("the pods of %s run on %v", source, nodes)
		}
	}
	everywhere(t, "shop", "web", "web-v1")
	everywhere(t, "shop", "cache", "cache")
	everywhere(t, "default", "db", "db")
	everywhere(t, "default", "vote", "vote")

	for _, h := range cluster.Agents() {
		if answer, err := get(t.Context(), h, "https://10.43.0.1/healthz"); err != nil || answer != "ok" {
			t.Errorf("the API answers %q, %v at its service address on %s", answer, err, h.Name)
		}
	}

	statuses, err := cluster.Statuses(t.Context(), "lab/shop", a)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statuses {
		if s.Context != "lockstep/lab/shop" || !strings.Contains(s.TargetURL, a) {
			t.Errorf("a status has the context %q and leads to %q", s.Context, s.TargetURL)
		}
	}
	table := kubectlOn(t, "get", "deploy", "--all-namespaces", "-o", "wide")
	for _, want := range []string{"web", "3/3", "vote", "2/2", "registry.example.org/shop/web:v1"} {
		if !strings.Contains(table, want) {
			t.Errorf("kubectl get deploy lacks %q:\n%s", want, table)
		}
	}
	if nodes := kubectlOn(t, "get", "nodes"); strings.Count(nodes, " Ready ") != 2 {
		t.Errorf("kubectl get nodes:\n%s", nodes)
	}
}

func scale(t *testing.T, shop, _ *repo) {
	before := containers(pods(t, "shop", "app=web"))
	shop.replace("web.yaml", "replicas: 3", "replicas: 5")
	shop.rolledOut(shop.push("scale the web to five"), 6)
	after := containers(pods(t, "shop", "app=web"))
	if len(after) != 5 {
		t.Errorf("%d containers run, want 5", len(after))
	}
	for name, id := range before {
		if after[name] != id {
			t.Errorf("scaling up replaced %s", name)
		}
	}
}

func changeImage(t *testing.T, shop, _ *repo) {
	service, err := cluster.client.CoreV1().Services("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	urls := []string{fmt.Sprintf("http://%s:80/", service.Spec.ClusterIP)}
	for _, h := range cluster.Agents() {
		urls = append(urls, fmt.Sprintf("http://%s:30180/", h.Addr))
	}
	hammer := startHammer(t, urls...)
	shop.replace("web.yaml", "shop/web:v1", "shop/web:v2")
	shop.rolledOut(shop.push("web v2"), 6)
	everywhere(t, "shop", "web", "web-v2")
	answers, failures := hammer.end()
	t.Logf("%v, %d failures", answers, len(failures))
	if len(failures) > 0 {
		t.Errorf("%d requests failed during the rollout, first: %s", len(failures), failures[0])
	}
	if answers["web-v1"] == 0 || answers["web-v2"] == 0 {
		t.Errorf("answers came from %v", answers)
	}
}

func rename(t *testing.T, shop, _ *repo) {
	before := containers(pods(t, "shop", ""))
	old := annotations(t, "web")
	if err := os.Mkdir(filepath.Join(shop.dir, "apps"), 0o755); err != nil {
		t.Fatal(err)
	}
	shop.git("mv", "web.yaml", "apps/front.yaml")
	commit := shop.push("move the web")
	shop.expect(commit, "success: 6 objects in sync and healthy")
	if after := containers(pods(t, "shop", "")); !maps.Equal(before, after) {
		t.Errorf("a rename replaced containers: before %v, after %v", before, after)
	}
	// The object is as it was, at its revision, and so is where its content comes from; who wants to change it is told where
	// it stands now.
	now := annotations(t, "web")
	if got, want := now["lockstep.dev/file"], "web.yaml:15"; got != want || old["lockstep.dev/file"] != want {
		t.Errorf("the content of the web stood at %q and stands at %q now, want %q", old["lockstep.dev/file"], got, want)
	}
	err := cluster.client.AppsV1().Deployments("shop").Delete(t.Context(), "web", metav1.DeleteOptions{})
	if err == nil || !strings.Contains(err.Error(), "apps/front.yaml:15") {
		t.Errorf("a refusal does not say where the web stands now: %v", err)
	}
	if got := now["lockstep.dev/commit"]; got != old["lockstep.dev/commit"] || got == commit {
		t.Errorf("its content is of commit %q, was of %q", got, old["lockstep.dev/commit"])
	}
	if got := now["lockstep.dev/author"]; !strings.Contains(got, "Ada") {
		t.Errorf("its author is %q", got)
	}
}

func annotations(t *testing.T, deployment string) map[string]string {
	t.Helper()
	d, err := cluster.client.AppsV1().Deployments("shop").Get(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Annotations
}

func deleteObject(t *testing.T, _, poll *repo) {
	others := containers(pods(t, "default", "app!=worker"))
	poll.git("rm", "-q", "worker-deployment.yaml")
	poll.expect(poll.push("no worker"), "success: 4 objects in sync and healthy")
	_, err := cluster.client.AppsV1().Deployments("default").Get(t.Context(), "worker", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the worker is asked for: %v", err)
	}
	until(t, func() error {
		if left := pods(t, "default", "app=worker"); len(left) > 0 {
			return fmt.Errorf("%d of the worker's pods are left", len(left))
		}
		return nil
	})
	if after := containers(pods(t, "default", "app!=worker")); !maps.Equal(others, after) {
		t.Errorf("other containers changed: before %v, after %v", others, after)
	}
}

// unchanged checks that a push changes nothing in the cluster.
func unchanged(t *testing.T, push func()) {
	t.Helper()
	versions := func() map[string]string {
		out := map[string]string{}
		deployments, err := cluster.client.AppsV1().Deployments("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deployments.Items {
			// Not the file that it names: after a move that is the new one with the next change of its status.
			out["Deployment "+d.Name] = fmt.Sprint(d.Generation)
		}
		maps_, err := cluster.client.CoreV1().ConfigMaps("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range maps_.Items {
			out["ConfigMap "+m.Name] = m.ResourceVersion
		}
		maps.Copy(out, containers(pods(t, "", "")))
		return out
	}
	before := versions()
	push()
	if after := versions(); !maps.Equal(before, after) {
		t.Errorf("a refused push changed the cluster: before %v, after %v", before, after)
	}
}

func immutableField(t *testing.T, shop, _ *repo) {
	unchanged(t, func() {
		shop.replace("apps/front.yaml", "    matchLabels:\n      app: web\n", "    matchLabels:\n      app: front\n")
		shop.replace("apps/front.yaml", "      labels:\n        app: web\n", "      labels:\n        app: front\n")
		shop.replace("shop.yaml", "currency: EUR", "currency: SEK")
		shop.expect(shop.push("select other pods"), "error: apps/front.yaml:22:3: Deployment shop/web: spec.selector: field is immutable; "+
			"rename it, or delete it in one commit and add it in the next")
	})
	shop.git("revert", "--no-edit", "HEAD")
}

func brokenField(t *testing.T, shop, _ *repo) {
	unchanged(t, func() {
		shop.replace("apps/front.yaml", "  replicas: 5", "  replcias: 4")
		shop.replace("shop.yaml", "currency: EUR", "currency: SEK")
		shop.expect(shop.push("fewer"),
			`error: apps/front.yaml:21:3: Deployment shop/web: spec.replcias: unknown field "replcias" (did you mean "replicas"?)`)
	})
	// The plan of a refused revision cannot be made, and says why.
	if out, err := lockstep(t.Context(), "plan", "shop"); err == nil || !strings.Contains(out, "apps/front.yaml:21:3") {
		t.Errorf("lockstep plan: %v: %s", err, out)
	}
	shop.replace("apps/front.yaml", "  replcias: 4", "  replicas: 4")
	shop.expect(shop.push("fewer, in words that exist"), "success: 6 objects in sync and healthy")
	until(t, func() error {
		if n := len(pods(t, "shop", "app=web")); n != 4 {
			return fmt.Errorf("%d pods of the web, want 4", n)
		}
		return nil
	})
}

func empty(t *testing.T, _, poll *repo) {
	unchanged(t, func() {
		poll.git("rm", "-q", "-r", ".")
		poll.expect(poll.push("clean up"),
			`error: held: no manifests, would delete all 4 objects; allow it with the commit trailer "Lockstep-Prune: allow"`)
	})
	poll.expect(poll.push("clean up\n\nLockstep-Prune: allow"), "success: 0 objects in sync and healthy")
	until(t, func() error {
		if left := pods(t, "default", ""); len(left) > 0 {
			return fmt.Errorf("%d pods are left", len(left))
		}
		return nil
	})
	poll.git("checkout", "-q", "HEAD~2", "--", ".")
	poll.rolledOut(poll.push("open again"), 4)
	everywhere(t, "default", "vote", "vote")
}

func forcePush(t *testing.T, shop, _ *repo) {
	shop.git("reset", "-q", "--hard", "HEAD~2")
	shop.replace("apps/front.yaml", "  replicas: 5", "  replicas: 3")
	shop.expect(shop.push("another history", "--force"), "success: 6 objects in sync and healthy")
	until(t, func() error {
		if n := len(pods(t, "shop", "app=web")); n != 3 {
			return fmt.Errorf("%d pods of the web, want 3", n)
		}
		return nil
	})
}

// failure pushes an image that nobody has and a program that ends at once; what ran before goes on.
func failure(t *testing.T, shop, poll *repo) {
	before := containers(pods(t, "shop", "app=web"))
	shop.replace("apps/front.yaml", "shop/web:v2\n", "shop/web:v2\n        args: [nonsense]\n")
	poll.replace("vote-deployment.yaml", "examples/poll-vote", "examples/poll-vote:missing")
	a, b := shop.push("nonsense"), poll.push("an image that nobody has")
	shop.fails(a, `^failure: Deployment shop/web: (CrashLoopBackOff|Error), 3/3 ready$`)
	poll.fails(b, `^failure: Deployment default/vote: ImagePullBackOff, 2/2 ready: `)
	after := containers(pods(t, "shop", "app=web"))
	for name, id := range before {
		if after[name] != id {
			t.Errorf("%s was replaced although what replaces it does not run", name)
		}
	}
	everywhere(t, "shop", "web", "web-v2")
	everywhere(t, "default", "vote", "vote")
	shop.git("revert", "--no-edit", "HEAD")
	poll.git("revert", "--no-edit", "HEAD")
	a, b = shop.push("no nonsense"), poll.push("an image that is there")
	shop.expect(a, "success: 6 objects in sync and healthy")
	poll.expect(b, "success: 4 objects in sync and healthy")
}

// webhook measures from a push to a running container; the source is looked at every 15 s without one.
func webhook(t *testing.T, shop, _ *repo) {
	code, err := cluster.Webhook(t.Context(), "lab/shop")
	if err != nil || code != http.StatusAccepted {
		t.Errorf("a signed webhook is answered with %d, %v", code, err)
	}
	hub, err := cluster.Host(lab.Hub)
	if err != nil {
		t.Fatal(err)
	}
	client := hub.HTTP()
	defer client.CloseIdleConnections()
	unsigned, err := client.Post("https://"+cluster.Server().Addr+":6443/hooks/git", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = unsigned.Body.Close()
	if unsigned.StatusCode != http.StatusUnauthorized {
		t.Errorf("an unsigned webhook is answered with %s", unsigned.Status)
	}

	template, err := os.ReadFile("testdata/quick.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range 5 {
		name := fmt.Sprintf("quick%d", i)
		text := strings.ReplaceAll(string(template), "NAME", name)
		if err := os.WriteFile(filepath.Join(shop.dir, name+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		commit := shop.push(name)
		until(t, func() error {
			p, err := cluster.client.CoreV1().Pods("shop").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Status.Phase != corev1.PodRunning {
				return errors.New(string(p.Status.Phase))
			}
			return nil
		})
		took = append(took, time.Since(started))
		shop.expect(commit, fmt.Sprintf("success: %d objects in sync and healthy", 7+i))
	}
	slices.Sort(took)
	t.Logf("git commit and push → pod running: %v", took)
	if took[len(took)/2] > 5*time.Second {
		t.Errorf("half of the pushes took longer than %s, although webhooks come at once", took[len(took)/2])
	}
	shop.git("rm", "-q", "quick*.yaml")
	shop.expect(shop.push("no more\n\nLockstep-Prune: allow"), "success: 6 objects in sync and healthy")
}

// forgeAway kills the daemon after it has decided a verdict that it could not post.
func forgeAway(t *testing.T, shop, poll *repo) {
	if err := cluster.FailForge(t.Context()); err != nil {
		t.Fatal(err)
	}
	shop.replace("shop.yaml", "currency: EUR", "currency: SEK")
	a := shop.push("another currency")
	poll.replace("vote-deployment.yaml", "replicas: 2", "replicas: 1")
	b := poll.push("fewer voters")
	for _, r := range []struct {
		*repo
		commit string
		count  int
	}{{shop, a, 6}, {poll, b, 4}} {
		until(t, func() error { return r.agrees(r.commit, r.count) })
	}
	if err := cluster.Kill(t.Context(), cluster.Server(), lab.Daemon); err != nil {
		t.Fatal(err)
	}
	if err := cluster.HealForge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := append(shop.verdicts(a), poll.verdicts(b)...); len(got) > 0 {
		t.Fatalf("the forge has statuses although it was away: %q", got)
	}
	if err := cluster.Start(t.Context(), cluster.Server(), lab.Daemon); err != nil {
		t.Fatal(err)
	}
	shop.expect(a, "success: 6 objects in sync and healthy")
	poll.expect(b, "success: 4 objects in sync and healthy")

	// An outage that the daemon lives through: the refusal of one commit, and the success of the next.
	if err := cluster.FailForge(t.Context()); err != nil {
		t.Fatal(err)
	}
	shop.replace("shop.yaml", "currency: SEK", "currency: [NOK]")
	broken := shop.push("many currencies")
	until(t, func() error {
		out, err := lockstep(t.Context(), "status") // ends with 2 once it is so
		if !strings.Contains(out, "revision "+broken[:12]+": error") {
			return fmt.Errorf("lockstep status: %v: %s", err, out)
		}
		return nil
	})
	shop.replace("shop.yaml", "currency: [NOK]", "currency: NOK")
	fixed := shop.push("one currency")
	until(t, func() error { return shop.agrees(fixed, 6) })
	if err := cluster.HealForge(t.Context()); err != nil {
		t.Fatal(err)
	}
	shop.expect(broken, "error: shop.yaml:12:13: ConfigMap shop/settings: data[currency]: wrong type: want a string, got a list")
	shop.expect(fixed, "success: 6 objects in sync and healthy")
}

// daemonKilled kills the daemon at different moments of a push's way; each time the push arrives all the same.
func daemonKilled(t *testing.T, shop, _ *repo) {
	for i, after := range []time.Duration{50, 150, 300, 600, 1000} {
		name := fmt.Sprintf("currency: %c", 'A'+i)
		file := filepath.Join(shop.dir, "shop.yaml")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(raw), "\n")
		lines[11] = "  " + name
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		replicas := []string{"replicas: 3", "replicas: 4"}
		shop.replace("apps/front.yaml", replicas[i%2], replicas[(i+1)%2])
		before := containers(pods(t, "shop", "app=cache"))
		commit := shop.push(name)
		time.Sleep(after * time.Millisecond)
		if err := cluster.Kill(t.Context(), cluster.Server(), lab.Daemon); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Start(t.Context(), cluster.Server(), lab.Daemon); err != nil {
			t.Fatal(err)
		}
		shop.expect(commit, "success: 6 objects in sync and healthy")
		if now := containers(pods(t, "shop", "app=cache")); !maps.Equal(before, now) {
			t.Errorf("killing the daemon changed containers: before %v, after %v", before, now)
		}
	}
	everywhere(t, "shop", "web", "web-v2")
}

// nodeCut takes a node off the network for longer than its heartbeats are waited for.
func nodeCut(t *testing.T, shop, _ *repo) {
	node := cluster.Agents()[1]
	behind := func() (n int) {
		slices_, err := cluster.client.DiscoveryV1().EndpointSlices("shop").List(t.Context(),
			metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slices_.Items {
			for _, e := range s.Endpoints {
				if e.NodeName != nil && *e.NodeName == node.Name && e.Conditions.Ready != nil && *e.Conditions.Ready {
					n++
				}
			}
		}
		return n
	}
	want := behind()
	if want == 0 {
		t.Fatalf("no pod of the web runs on %s", node.Name)
	}
	before := containers(pods(t, "shop", ""))
	if err := cluster.Cut(node); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	until(t, func() error {
		if n := ready(t, node); n != corev1.ConditionUnknown {
			return fmt.Errorf("node %s is Ready=%s", node.Name, n)
		}
		if n := behind(); n != 0 {
			return fmt.Errorf("%d ready endpoints are on a node that is away", n)
		}
		return nil
	})
	t.Logf("NotReady, and out of the services, %s after the cut", time.Since(cut).Round(100*time.Millisecond))
	other := cluster.Agents()[0]
	for range 20 {
		answer, err := get(t.Context(), other, fmt.Sprintf("http://%s:30180/", other.Addr))
		if err == nil && strings.HasPrefix(answer, "web-v2 ") {
			continue
		}
		// The rules follow the endpoints within a moment.
		until(t, func() error {
			_, err := get(t.Context(), other, fmt.Sprintf("http://%s:30180/", other.Addr))
			return err
		})
	}
	if err := cluster.Heal(node); err != nil {
		t.Fatal(err)
	}
	healed := time.Now()
	until(t, func() error {
		if n := ready(t, node); n != corev1.ConditionTrue {
			return fmt.Errorf("node %s is Ready=%s", node.Name, n)
		}
		if n := behind(); n != want {
			return fmt.Errorf("%d ready endpoints are on %s, want %d", n, node.Name, want)
		}
		return nil
	})
	t.Logf("Ready, and in the services, %s after healing", time.Since(healed).Round(100*time.Millisecond))
	if after := containers(pods(t, "shop", "")); !maps.Equal(before, after) {
		t.Errorf("a cut of less than the pods' toleration changed containers: before %v, after %v", before, after)
	}
	everywhere(t, "shop", "web", "web-v2")
}

func ready(t *testing.T, h *lab.Host) corev1.ConditionStatus {
	t.Helper()
	n, err := cluster.client.CoreV1().Nodes().Get(t.Context(), h.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := kinds.NodeCondition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}
