package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
	"lockstep/internal/kubectl"
	"lockstep/lab"
	"lockstep/sync/forge/forgetest"
)

// patience is how long the tests wait for what should take a few seconds: other tests share the machine.
const patience = 60 * time.Second

// until returns once check returns nil.
func until(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := eventually.Do(ctx, check); err != nil {
		t.Fatalf("not within %s: %v", patience, err)
	}
}

// repo is a person's clone of a repository of the lab.
type repo struct {
	t      *testing.T
	source string // name of the source, and of the repository
	dir    string
}

func clone(t *testing.T, source string) *repo {
	t.Helper()
	r := &repo{t: t, source: source, dir: filepath.Join(t.TempDir(), source)}
	_, folder, err := cluster.Repo(t.Context(), source, false)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "git", "clone", "-q", folder, r.dir).CombinedOutput(); err != nil {
		t.Fatalf("cannot clone %s: %v: %s", folder, err, out)
	}
	r.git("checkout", "-q", "-B", "main")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada",
		"GIT_AUTHOR_EMAIL=ada@example.org",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// copy copies files into the clone.
func (r *repo) copy(from string) {
	r.t.Helper()
	if out, err := exec.CommandContext(r.t.Context(), "cp", "-r", from, r.dir).CombinedOutput(); err != nil {
		r.t.Fatalf("cannot copy %s: %v: %s", from, err, out)
	}
}

// replace replaces a text that a file has exactly once.
func (r *repo) replace(file, old, with string) {
	r.t.Helper()
	path := filepath.Join(r.dir, file)
	raw, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if n := strings.Count(string(raw), old); n != 1 {
		r.t.Fatalf("%s has %q %d times", file, old, n)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), old, with, 1)), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// push commits everything and pushes it; it returns the commit.
func (r *repo) push(message string, flags ...string) string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	r.git(append([]string{"push", "-q", "origin", "main"}, flags...)...)
	return r.git("rev-parse", "HEAD")
}

// verdicts returns what the forge has received for a commit, "state: text" each, the oldest first.
func (r *repo) verdicts(commit string) []string {
	r.t.Helper()
	statuses, err := cluster.Statuses(r.t.Context(), "lab/"+r.source, commit)
	if err != nil {
		r.t.Fatal(err)
	}
	return texts(statuses, "lockstep/lab/"+r.source)
}

func texts(statuses []forgetest.Status, context string) []string {
	var out []string
	for _, s := range statuses {
		if s.Context == context {
			out = append(out, s.State+": "+s.Description)
		}
	}
	return out
}

// expect waits until the newest verdict of a commit is one, and returns all of them.
func (r *repo) expect(commit, want string) []string {
	r.t.Helper()
	var got []string
	until(r.t, func() error {
		if got = r.verdicts(commit); len(got) == 0 || got[len(got)-1] != want {
			return fmt.Errorf("commit %s has %q, want at last %q", commit, got, want)
		}
		return nil
	})
	r.t.Logf("%s %s: %s", r.source, r.git("log", "-1", "--format=%s", commit), strings.Join(got, " | "))
	return got
}

// fails waits until the newest verdict of a commit has a form.
func (r *repo) fails(commit, form string) {
	r.t.Helper()
	until(r.t, func() error {
		got := r.verdicts(commit)
		if len(got) == 0 || !regexp.MustCompile(form).MatchString(got[len(got)-1]) {
			return fmt.Errorf("commit %s has %q, want at last %s", commit, got, form)
		}
		r.t.Logf("%s %s: %s", r.source, r.git("log", "-1", "--format=%s", commit), strings.Join(got, " | "))
		return nil
	})
}

// rolledOut waits until a commit is healthy, and checks that it was pending before.
func (r *repo) rolledOut(commit string, objects int) {
	r.t.Helper()
	got := r.expect(commit, fmt.Sprintf("success: %d objects in sync and healthy", objects))
	form := regexp.MustCompile(fmt.Sprintf(`^pending: rolling out \d+ of %d`, objects))
	for _, s := range got[:len(got)-1] {
		if !form.MatchString(s) {
			r.t.Errorf("a rollout has the status %q", s)
		}
	}
	if len(got) < 2 {
		r.t.Errorf("commit %s was never pending: %q", commit, got)
	}
	until(r.t, func() error { return r.agrees(commit, objects) })
}

// agrees says whether lockstep status and lockstep plan, on the server, say that a commit is applied and healthy.
func (r *repo) agrees(commit string, objects int) error {
	out, err := lockstep(r.t.Context(), "status") // its code is of all sources and nodes
	if want := fmt.Sprintf("revision %s: success: %d objects in sync and healthy", commit[:12], objects); !strings.Contains(out, want) {
		return fmt.Errorf("lockstep status does not say %q: %v: %s", want, err, out)
	}
	if out, err := lockstep(r.t.Context(), "plan", r.source); err != nil {
		return fmt.Errorf("lockstep plan: %w: %s", err, out)
	}
	return nil
}

// lockstep runs the program on the server.
func lockstep(ctx context.Context, args ...string) (string, error) {
	return cluster.Server().Run(ctx, cluster.lockstep, args...)
}

// kubectlOn runs kubectl as a viewer.
func kubectlOn(t *testing.T, args ...string) string {
	t.Helper()
	c := kubectl.Command(t.Context(), cluster.config, t.TempDir(), args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Fatalf("kubectl %v: %v: %s", args, err, &out)
	}
	return out.String()
}

// pods returns the pods of a namespace that have a label, without those that are on their way out.
func pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	list, err := cluster.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	var out []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// containers are the ids of the containers of pods, which a restart or a rollout would change.
func containers(pods []corev1.Pod) map[string]string {
	out := map[string]string{}
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			out[p.Name+"/"+c.Name] = c.ContainerID
		}
	}
	return out
}

// hostOf is the host that a pod runs on.
func hostOf(t *testing.T, p corev1.Pod) *lab.Host {
	t.Helper()
	h, err := cluster.Host(p.Spec.NodeName)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// askFrom has a program inside a pod get a URL.
func askFrom(t *testing.T, p corev1.Pod, url string) (string, error) {
	_, id, ok := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	if !ok {
		return "", fmt.Errorf("pod %s has no container", p.Name)
	}
	return hostOf(t, p).Run(t.Context(), "ctr", "-n", "lockstep", "task", "exec", "--exec-id",
		fmt.Sprintf("ask-%d", time.Now().UnixNano()), id, "/standin", "ask", url)
}

// get gets a URL from a host, over a new connection.
func get(ctx context.Context, h *lab.Host, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := h.HTTP()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(response.Status))
	}
	return string(raw), err
}

// everywhere checks that a service answers by name from one pod of each node, and by its address and node port from each
// node; want is what each answer begins with.
func everywhere(t *testing.T, namespace, name string, want ...string) {
	t.Helper()
	service, err := cluster.client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fits := func(answer string, err error) error {
		for _, w := range want {
			if err == nil && strings.HasPrefix(answer, w+" ") {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%s/%s answers %q, want one of %q", namespace, name, answer, want))
	}
	port := service.Spec.Ports[0]
	from := map[string]corev1.Pod{}
	for _, p := range pods(t, metav1.NamespaceAll, "") {
		if p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) > 0 {
			from[p.Spec.NodeName] = p
		}
	}
	for _, h := range cluster.Agents() {
		p, ok := from[h.Name]
		if !ok {
			t.Errorf("no pod runs on %s", h.Name)
			continue
		}
		names := []string{fmt.Sprintf("%s.%s", name, namespace), fmt.Sprintf("%s.%s.svc.cluster.local", name, namespace)}
		if p.Namespace == namespace {
			names = append(names, name)
		}
		for _, n := range names {
			until(t, func() error { return fits(askFrom(t, p, fmt.Sprintf("http://%s:%d/", n, port.Port))) })
		}
		urls := []string{fmt.Sprintf("http://%s:%d/", service.Spec.ClusterIP, port.Port)}
		for _, to := range cluster.Agents() {
			if port.NodePort != 0 {
				urls = append(urls, fmt.Sprintf("http://%s:%d/", to.Addr, port.NodePort))
			}
		}
		for _, url := range urls {
			until(t, func() error { return fits(get(t.Context(), h, url)) })
		}
	}
}

// hammer asks URLs from every agent, again and again, each time over a new connection.
type hammer struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	answers  map[string]int // by first word
	failures []string
}

func startHammer(t *testing.T, urls ...string) *hammer {
	ctx, cancel := context.WithCancel(t.Context())
	h := &hammer{stop: cancel, answers: map[string]int{}}
	for _, host := range cluster.Agents() {
		for _, url := range urls {
			h.done.Go(func() {
				for ctx.Err() == nil {
					answer, err := get(context.WithoutCancel(ctx), host, url)
					h.mu.Lock()
					if err != nil {
						h.failures = append(h.failures, fmt.Sprintf("%s from %s: %v", time.Now().Format("15:04:05.000"), host.Name, err))
					} else {
						h.answers[strings.Fields(answer)[0]]++
					}
					h.mu.Unlock()
					select {
					case <-ctx.Done():
					case <-time.After(5 * time.Millisecond):
					}
				}
			})
		}
	}
	t.Cleanup(func() { h.end() })
	return h
}

// end stops the hammer and returns how often each name answered, and what went wrong.
func (h *hammer) end() (map[string]int, []string) {
	h.stop()
	h.done.Wait()
	return h.answers, h.failures
}
