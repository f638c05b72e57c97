package canary

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"lockstep/internal/eventually"
	"lockstep/internal/kubectl"
	"lockstep/lab"
	"lockstep/lab/image"
)

const (
	// patience is how long the test waits for what should take a few seconds: other tests share the machine.
	patience = 90 * time.Second

	// Every value of every Secret holds one of these; nothing else does.
	canary = "yellow-bird"
	number = "471108154711"
)

// good is a revision that works, as far as its Secrets go: some of its pods fail, with their secrets at hand.
var good = map[string]string{
	"namespace.yaml": `{apiVersion: v1, kind: Namespace, metadata: {name: mine}}`,
	"secrets.yaml": `
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: mine}
stringData: {PASSWORD: yellow-bird-one, path: ../yellow-bird-two, a.b: yellow-bird-three}
---
apiVersion: v1
kind: Secret
metadata: {name: pull, namespace: mine}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"registry.example.org":{"username":"finch","password":"yellow-bird-four"}}}'}
---
apiVersion: v1
kind: Secret
metadata: {name: still, namespace: mine}
immutable: true
stringData: {a: yellow-bird-five}
`,
	"works.yaml": deployment("works", `
        args: [wait]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: PASSWORD}}}]
        envFrom: [{secretRef: {name: pull}}]
        volumeMounts: [{name: key, mountPath: /key}]
      volumes: [{name: key, secret: {secretName: key, items: [{key: PASSWORD, path: password}]}}]`),
}

// failing are Deployments whose pods fail with a value of a Secret at hand.
var failing = map[string]string{
	"command.yaml": deployment("command", `
        command: ["$(PASSWORD)"]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: PASSWORD}}}]`),
	"workdir.yaml": deployment("path", `
        args: [wait]
        env: [{name: OUT, valueFrom: {secretKeyRef: {name: key, key: path}}}]
        volumeMounts: [{name: empty, mountPath: /empty, subPathExpr: "a/$(OUT)"}]
      volumes: [{name: empty, emptyDir: {}}]`),
	"hook.yaml": deployment("hook", `
        args: [wait]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: PASSWORD}}}]
        lifecycle: {postStart: {exec: {command: [/nothing, "$(PASSWORD)"]}}}`),
	"missing.yaml": deployment("missing", `
        args: [wait]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: none}}}]`),
	"image.yaml": strings.ReplaceAll(deployment("image", ""), "standin:1", "registry.example.org/none:1"),
}

func deployment(name, container string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: mine}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      imagePullSecrets: [{name: pull}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: standin:1%[2]s
`, name, container)
}

// broken are manifests that are refused because of, or near to, a secret value.
var broken = map[string]string{
	"base64.yaml":  secret("data: {a: yellow-bird!}"),
	"scalar.yaml":  secret("stringData: yellow-bird"),
	"list.yaml":    secret("stringData: [yellow-bird]"),
	"nested.yaml":  secret("stringData: {a: {b: yellow-bird}}"),
	"twice.yaml":   secret("stringData: {a: yellow-bird, a: yellow-bird}"),
	"unknown.yaml": secret("stringDta: {a: yellow-bird}"),
	"number.yaml":  secret("stringData: {a: 471108154711}"),
	"open.yaml":    secret(`stringData: {a: "yellow-bird`),
	"colon.yaml":   secret("stringData:\n  a: yellow-bird\n b: : yellow-bird"),
	"tab.yaml":     secret("stringData:\n\ta: yellow-bird"),
	"alias.yaml":   secret("stringData: {a: &a yellow-bird, b: *yellow-bird}"),
	"tag.yaml":     secret("stringData: {a: !!int yellow-bird}"),
	"binary.yaml":  secret("data: {a: !!binary yellow-bird}"),
	"docker.yaml":  secret("type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '{yellow-bird'}"),
	"tls.yaml":     secret("type: kubernetes.io/tls\nstringData: {tls.key: yellow-bird}"),
	"truncated.json": `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"truncated","namespace":"mine"},` +
		`"stringData":{"a":"yellow-bird`,
	"type.json": `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"type","namespace":"mine"},"stringData":"yellow-bird"}`,
	"after.json": `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"after","namespace":"mine"},` +
		`"stringData":{"a":"yellow-bird"}} yellow-bird`,
}

func secret(text string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: broken, namespace: mine}\n" + text + "\n"
}

// world is a cluster with a repository, and everything that was seen of it.
type world struct {
	*testing.T
	lab    *lab.Lab
	repo   string // a clone
	client *kubernetes.Clientset
	config string
	seen   int
}

func TestNoSecretIsTold(t *testing.T) {
	w := up(t)
	w.validateOffline()

	first := w.push("good", good)
	w.await(first, "success")
	w.look(first)

	for name, text := range failing {
		w.write(name, text)
	}
	second := w.push("pods that fail", nil)
	w.awaitEvents("Failed", "FailedPostStartHook")
	w.await(second, "failure")
	w.look(second)

	third := w.push("manifests that are refused", broken)
	w.await(third, "error")
	w.look(third)

	for name := range broken {
		w.remove(name)
	}
	fourth := w.push("an immutable secret", map[string]string{
		"secrets.yaml": strings.ReplaceAll(good["secrets.yaml"], "yellow-bird", "yellow-birds"),
	})
	w.await(fourth, "error")
	w.look(fourth)

	w.plan()
	w.asViewer()
	w.onDisk()
	w.rotate()
	w.onDisk()
	if w.seen < 1<<20 {
		t.Errorf("only %d bytes were looked at", w.seen)
	}
}

// TestClean tries the search on what it is to find.
func TestClean(t *testing.T) {
	for text, found := range map[string]bool{
		"": false, "a yellow bird": false, "YELLOW-BIRD-one": true, "x" + canary + "-one": true, "pin " + number: true,
		base64.StdEncoding.EncodeToString([]byte(canary + "-one")): true, base64.StdEncoding.EncodeToString([]byte("a" + canary)): true,
		base64.StdEncoding.EncodeToString([]byte("ab" + canary)): true,
	} {
		if (leak([]byte(text)) != "") != found {
			t.Errorf("%q: found %q", text, leak([]byte(text)))
		}
	}
}

// leak returns what of a secret the text holds, with what is around it.
func leak(text []byte) string {
	lower := bytes.ToLower(text)
	for _, needle := range []string{canary, number} {
		if i := bytes.Index(lower, []byte(needle)); i >= 0 {
			return string(text[max(0, i-200):min(len(text), i+100)])
		}
		// The three ways in which base64 can cut it, without the characters that depend on what is beside.
		for cut := range 3 {
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", cut) + needle))
			core := encoded[[3]int{0, 2, 3}[cut] : len(encoded)-1]
			if i := bytes.Index(text, []byte(core)); i >= 0 {
				return string(text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	return ""
}

func (w *world) clean(what string, text []byte) {
	w.Helper()
	w.seen += len(text)
	if found := leak(text); found != "" {
		w.Errorf("%s tells a secret: …%s…", what, found)
	}
}

func up(t *testing.T) *world {
	w := &world{T: t, repo: filepath.Join(t.TempDir(), "clone")}
	var err error
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	w.lab, err = lab.Up(ctx, lab.Options{
		Dir: filepath.Join(t.TempDir(), "lab"), Lockstep: lockstep, Self: lockstepLab, Agents: 1, LogLevel: "debug",
		Prefix: "canary-", Sources: []string{fmt.Sprintf("http://%s:%d/lab/birds.git", lab.HubAddr, lab.GitPort)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	tar := filepath.Join(t.TempDir(), "standin.tar")
	if err := image.SaveProgram(tar, "standin:1", standin, "/standin"); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.Images(ctx, tar); err != nil {
		t.Fatal(err)
	}
	if w.client, err = w.lab.Client(ctx); err != nil {
		t.Fatal(err)
	}
	raw, err := w.lab.Kubeconfig(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	w.config = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(w.config, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, folder, err := w.lab.Repo(ctx, "birds", false)
	if err != nil {
		t.Fatal(err)
	}
	w.run(0, exec.CommandContext(ctx, "git", "clone", "-q", folder, w.repo))
	w.git("checkout", "-q", "-B", "main")
	return w
}

// run returns what a command prints, all of it.
func (w *world) run(want int, cmd *exec.Cmd) []byte {
	w.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatalf("cannot run %v: %v", cmd.Args, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		w.Fatalf("%v ended with %d, want %d: %s", cmd.Args, got, want, out)
	}
	return out
}

func (w *world) git(args ...string) string {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), "git", args...)
	cmd.Dir = w.repo
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada",
		"GIT_AUTHOR_EMAIL=ada@example.org",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org")
	return strings.TrimSpace(string(w.run(0, cmd)))
}

func (w *world) write(name, text string) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.repo, name), []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.Helper()
	if err := os.Remove(filepath.Join(w.repo, name)); err != nil {
		w.Fatal(err)
	}
}

// push writes files and pushes everything; it returns the commit.
func (w *world) push(message string, files map[string]string) string {
	w.Helper()
	for name, text := range files {
		w.write(name, text)
	}
	w.git("add", "-A")
	w.git("commit", "-q", "-m", message)
	w.git("push", "-q", "origin", "main")
	return w.git("rev-parse", "HEAD")
}

func (w *world) eventually(check func() error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := eventually.Do(ctx, check); err != nil {
		w.Fatalf("not within %s: %v", patience, err)
	}
}

// await waits until the forge has a verdict on a commit.
func (w *world) await(commit, state string) {
	w.Helper()
	w.eventually(func() error {
		statuses, err := w.lab.Statuses(w.Context(), "lab/birds", commit)
		if err != nil {
			return err
		}
		if len(statuses) > 0 && statuses[len(statuses)-1].State == "error" && state != "error" {
			w.Fatalf("commit %s was refused: %+v", commit, statuses)
		}
		if len(statuses) == 0 || statuses[len(statuses)-1].State != state {
			return fmt.Errorf("commit %s has %+v, want %s", commit, statuses, state)
		}
		return nil
	})
}

// awaitEvents waits until there are events with each of the reasons.
func (w *world) awaitEvents(reasons ...string) {
	w.Helper()
	w.eventually(func() error {
		list, err := w.client.CoreV1().Events("mine").List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var have []string
		for _, e := range list.Items {
			have = append(have, e.Reason)
		}
		for _, r := range reasons {
			if !slices.Contains(have, r) {
				return fmt.Errorf("no event %s among %v", r, have)
			}
		}
		return nil
	})
}

// validateOffline checks each broken manifest alone: what is told about it is told without its values.
func (w *world) validateOffline() {
	for name, text := range broken {
		file := filepath.Join(w.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			w.Fatal(err)
		}
		out := w.run(1, exec.CommandContext(w.Context(), lockstep, "validate", file))
		if !strings.Contains(string(out), name+":") {
			w.Errorf("validate says nothing of %s: %s", name, out)
		}
		w.clean("lockstep validate "+name, out)
	}
}

// look searches what the cluster tells now, of a commit.
func (w *world) look(commit string) {
	w.Helper()
	ctx := w.Context()
	statuses, err := w.lab.Statuses(ctx, "lab/birds", commit)
	if err != nil {
		w.Fatal(err)
	}
	raw, err := json.Marshal(statuses)
	if err != nil {
		w.Fatal(err)
	}
	w.clean("a commit status", raw)
	server := w.lab.Server()
	told, err := server.Command(ctx, lockstep, "status").CombinedOutput() // its code says how the cluster is
	if !strings.Contains(string(told), "source birds") {
		w.Fatalf("lockstep status: %v: %s", err, told)
	}
	w.clean("lockstep status", told)
	w.pages()

	list, err := w.client.Discovery().ServerPreferredResources()
	if err != nil {
		w.Fatal(err)
	}
	for _, group := range list {
		for _, r := range group.APIResources {
			if r.Name == "secrets" || !slices.Contains(r.Verbs, "list") {
				continue
			}
			prefix := "/apis/"
			if group.GroupVersion == "v1" {
				prefix = "/api/"
			}
			path := prefix + group.GroupVersion + "/" + r.Name
			raw, err := w.client.RESTClient().Get().AbsPath(path).DoRaw(ctx)
			if err != nil {
				w.Fatalf("cannot list %s: %v", path, err)
			}
			w.clean(path, raw)
		}
	}
	for _, path := range []string{"/metrics", "/readyz?verbose", "/api/v1/nodes/" + w.lab.Agents()[0].Name + "/proxy/metrics"} {
		request := w.client.RESTClient().Get().RequestURI(path)
		raw, err := request.DoRaw(ctx)
		if err != nil {
			w.Fatalf("cannot get %s: %v", path, err)
		}
		w.clean(path, raw)
	}
	for _, args := range [][]string{
		{"describe", "pods", "-A"}, {"describe", "deployments", "-A"}, {"describe", "nodes"}, {"events", "-A"},
		{"get", "all,configmaps,events", "-A", "-o", "yaml"},
	} {
		w.clean("kubectl "+strings.Join(args, " "), w.run(0, w.kubectl(args...)))
	}
	for _, h := range w.lab.Hosts() {
		logs, err := filepath.Glob(filepath.Join(filepath.Dir(h.LogFile("x")), "*"))
		if err != nil {
			w.Fatal(err)
		}
		for _, name := range logs {
			raw, err := os.ReadFile(name)
			if err != nil {
				w.Fatal(err)
			}
			w.clean(name, raw)
		}
	}
}

func (w *world) kubectl(args ...string) *exec.Cmd {
	return kubectl.Command(w.Context(), w.config, os.Getenv("HOME"), args...)
}

var link = regexp.MustCompile(`(?:href|src)="(/[^"]*)"`)

// pages searches the status page, and everything it leads to.
func (w *world) pages() {
	w.Helper()
	client := w.lab.Server().HTTP()
	defer client.CloseIdleConnections()
	client.Timeout = 10 * time.Second
	todo, known := []string{"/"}, map[string]bool{"/": true}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		response, err := client.Get("http://127.0.0.1:7070" + path)
		if err != nil {
			w.Fatal(err)
		}
		page, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil || response.StatusCode != http.StatusOK {
			w.Fatalf("page %s: %s, %v", path, response.Status, err)
		}
		w.clean("page "+path, page)
		for _, m := range link.FindAllSubmatch(page, -1) {
			if next := strings.ReplaceAll(string(m[1]), "&amp;", "&"); !known[next] {
				known[next] = true
				todo = append(todo, next)
			}
		}
	}
}

// plan asks for the difference to a folder whose Secrets have other values.
func (w *world) plan() {
	folder := w.TempDir()
	for name, text := range good {
		text = strings.ReplaceAll(text, "yellow-bird-one", "yellow-bird-six")
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	out := w.run(2, w.lab.Server().Command(w.Context(), lockstep, "plan", "birds="+folder))
	if !strings.Contains(string(out), "Secret mine/key") && !strings.Contains(string(out), "secrets/mine/key") {
		w.Errorf("the plan does not name the Secret: %s", out)
	}
	w.clean("lockstep plan", out)
}

// asViewer tries to read Secrets with a viewer's rights.
func (w *world) asViewer() {
	secrets := w.client.CoreV1().Secrets("mine")
	ctx := w.Context()
	_, get := secrets.Get(ctx, "key", metav1.GetOptions{})
	_, list := secrets.List(ctx, metav1.ListOptions{})
	_, all := w.client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	_, watch := secrets.Watch(ctx, metav1.ListOptions{})
	for verb, err := range map[string]error{"get": get, "list": list, "list everywhere": all, "watch": watch} {
		if !apierrors.IsForbidden(err) {
			w.Errorf("a viewer may %s secrets: %v", verb, err)
		}
		w.clean("the refusal of "+verb, fmt.Append(nil, err))
	}
	w.clean("kubectl describe secret", w.run(1, w.kubectl("describe", "secret", "key", "-n", "mine")))
}
