//go:build soak

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/kinds"
	"lockstep/lab"
	"lockstep/lab/faults/history"
	"lockstep/lab/image"
)

// cluster is a lab of three servers and three agents with clients that push, read, call and write all the time. What they see is in
// log and in the calls.
type cluster struct {
	t      *testing.T
	ctx    context.Context
	lab    *lab.Lab
	random *rand.Rand
	repo   string                  // where pushes are made
	apis   map[string]*http.Client // clients of the API of each server, by its host's name, from where no fault reaches
	home   lab.Host                // from there
	order  []string                // of the servers, by name

	mu    sync.Mutex
	hosts map[string]lab.Host // as they were after the last fault, for those who use them while another one strikes
	log   history.Log
	runs  map[string]*history.Run // by pod and instance, those of log
	calls []history.Call          // of the service
	reads []history.Call          // of the API
	seen  int                     // the highest number that was read
	where map[string]corev1.Pod   // pods that keep data, by name
	at    string                  // the service's address
}

// numbers is the object that has the number of each push.
const numbers = "/api/v1/namespaces/" + namespace + "/configmaps/numbers"

// survivors is what runs: a web behind a service, and a set that keeps data on the first two agents, so that the third may be emptied.
func survivors(on []*lab.Host) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: %[1]s}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: main
        image: %[2]s
        resources: {requests: {cpu: 10m}}
        ports: [{containerPort: 8080}]
        lifecycle: {preStop: {exec: {command: [/load, sleep, 1s]}}}
%[3]s---
apiVersion: v1
kind: Service
metadata: {name: keep, namespace: %[1]s}
spec: {clusterIP: None, selector: {app: keep}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keep, namespace: %[1]s}
spec:
  replicas: 2
  serviceName: keep
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: keep}}
  template:
    metadata: {labels: {app: keep}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: keep}}}
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%[4]s, %[5]s]}]}]
%[6]s`, namespace, loadImage, serving("serve"), on[0].Name, on[1].Name, keeping("16Mi"))
}

// newCluster makes the lab and waits until all runs. The clients are begin's.
func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{t: t, ctx: t.Context(), random: rand.New(rand.NewPCG(seed, 0)), repo: filepath.Join(dir, "repo"),
		apis: map[string]*http.Client{}, hosts: map[string]lab.Host{}, runs: map[string]*history.Run{}, where: map[string]corev1.Pod{}}
	tar, config := filepath.Join(dir, "load.tar"), filepath.Join(dir, "sources.yaml")
	if err := image.SaveProgram(tar, loadImage, load, "/load"); err != nil {
		t.Fatal(err)
	}
	source := fmt.Sprintf("apiVersion: lockstep.dev/v1alpha1\nkind: Source\nmetadata: {name: survivors}\n"+
		"spec: {url: \"http://%s:%d/lab/survivors.git\", branch: main, interval: 5s}\n", lab.HubAddr, lab.GitPort)
	if err := os.WriteFile(config, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.lab, err = lab.Up(c.ctx, lab.Options{Dir: filepath.Join(dir, "lab"), Lockstep: lockstep, Self: lockstepLab, Servers: 3, Agents: 3,
		Disk: 2 << 30, Config: config, Prefix: fmt.Sprintf("survive-%d-", os.Getpid())}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.report()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	c.stand()
	if err := c.lab.Images(c.ctx, tar); err != nil {
		t.Fatal(err)
	}
	_, folder, err := c.lab.Repo(c.ctx, "survivors", false)
	if err != nil {
		t.Fatal(err)
	}
	c.git("init", "-q", "-b", "main", c.repo)
	c.git("-C", c.repo, "remote", "add", "origin", folder)
	if err := os.WriteFile(filepath.Join(c.repo, "survivors.yaml"), []byte(survivors(c.lab.Agents())), 0o600); err != nil {
		t.Fatal(err)
	}
	c.push(1)
	if _, err := c.well(1, 2*patience); err != nil {
		t.Fatal(err)
	}
	var web corev1.Service
	if err := c.get("/api/v1/namespaces/"+namespace+"/services/web", &web); err != nil {
		t.Fatal(err)
	}
	c.at = web.Spec.ClusterIP
	return c
}

// stand has clients use the hosts as they are now, and the API from where no fault reaches.
func (c *cluster) stand() {
	c.t.Helper()
	c.mu.Lock()
	for _, h := range c.lab.Hosts() {
		c.hosts[h.Name] = *h
	}
	c.mu.Unlock()
	if len(c.apis) > 0 {
		return
	}
	home, err := c.lab.Onlooker()
	if err != nil {
		c.t.Fatal(err)
	}
	c.home = *home
	raw, err := c.lab.Kubeconfig(c.ctx, false)
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range c.lab.Servers() {
		mine := rest.CopyConfig(config)
		mine.Dial, mine.Timeout = c.home.Dial, readWait
		c.order = append(c.order, s.Name)
		if c.apis[s.Name], err = rest.HTTPClientFor(mine); err != nil {
			c.t.Fatal(err)
		}
	}
}

// host is a host as it was after the last fault.
func (c *cluster) host(name string) lab.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts[name]
}

// well waits until the cluster is as it should be: each server is ready, each node, all pods, the service
// answers to each, and the push of that number was applied. It returns what was not, at last.
func (c *cluster) well(number int, limit time.Duration) (last, err error) {
	return last, until(c.ctx, limit, "all well", func() (bool, string) {
		err := c.isWell(number)
		if err != nil {
			last = err
		}
		return err == nil, fmt.Sprint(err)
	})
}

func (c *cluster) isWell(number int) error {
	for _, s := range c.servers(0) {
		if _, _, err := c.ask(s, "/readyz", nil); err != nil {
			return err
		}
	}
	var object corev1.ConfigMap
	var nodes corev1.NodeList
	var web appsv1.Deployment
	var keep appsv1.StatefulSet
	apps := "/apis/apps/v1/namespaces/" + namespace
	if err := errors.Join(c.get(numbers, &object), c.get("/api/v1/nodes", &nodes), c.get(apps+"/deployments/web", &web),
		c.get(apps+"/statefulsets/keep", &keep)); err != nil {
		return err
	}
	if n, _ := strconv.Atoi(object.Data["number"]); n < number {
		return fmt.Errorf("push %d was applied, want %d", n, number)
	}
	for i := range nodes.Items {
		if !kinds.NodeReady(&nodes.Items[i]) {
			return fmt.Errorf("node %s is not ready", nodes.Items[i].Name)
		}
	}
	if want := len(c.lab.Agents()); len(nodes.Items) != want {
		return fmt.Errorf("there are %d nodes, want %d", len(nodes.Items), want)
	}
	if s := web.Status; s.ObservedGeneration != web.Generation || s.Replicas != 3 || s.AvailableReplicas != 3 {
		return fmt.Errorf("web: %d replicas, %d available", s.Replicas, s.AvailableReplicas)
	}
	if s := keep.Status; s.ObservedGeneration != keep.Generation || s.Replicas != 2 || s.AvailableReplicas != 2 {
		return fmt.Errorf("keep: %d replicas, %d available", s.Replicas, s.AvailableReplicas)
	}
	if c.at == "" {
		return nil
	}
	for _, h := range c.lab.Agents() {
		if !c.answered(h.Name).OK {
			return fmt.Errorf("the service does not answer to %s", h.Name)
		}
	}
	return nil
}

// leader is the server that leads, and followers are the others.
func (c *cluster) leader() (leader *lab.Host, followers []*lab.Host) {
	c.t.Helper()
	err := until(c.ctx, patience, "who leads", func() (bool, string) {
		out, err := c.lab.Server().Run(c.ctx, lockstep, "server", "list")
		if err != nil {
			return false, err.Error()
		}
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "leader" {
				leader, err = c.lab.Host(fields[0])
				return err == nil, fmt.Sprint(err)
			}
		}
		return false, out
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return leader, slices.DeleteFunc(c.lab.Servers(), func(h *lab.Host) bool { return h == leader })
}

// finish has the pods tell what they have kept, and returns what was seen.
func (c *cluster) finish() history.Log {
	c.t.Helper()
	c.follow()
	kept := map[string]map[int64]bool{}
	for _, pod := range []string{"keep-0", "keep-1"} {
		p := c.pod(pod)
		client, closes := c.from(p.Spec.NodeName)
		lines, err := keptBy(client, p.Status.PodIP)
		closes()
		if err != nil {
			c.t.Errorf("cannot read what %s has kept: %v", pod, err)
		}
		kept[pod] = map[int64]bool{}
		for line := range lines {
			if n, err := strconv.ParseInt(strings.TrimPrefix(line, pod+"/"), 10, 64); err == nil {
				kept[pod][n] = true
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log.Kept = kept
	for _, run := range c.runs {
		c.log.Runs = append(c.log.Runs, *run)
	}
	return c.log
}

// lasting are the violations so far; c.mu is held.
func (c *cluster) lasting() []string {
	log := c.log
	for _, run := range c.runs {
		log.Runs = append(log.Runs, *run)
	}
	return log.Lasting()
}

// report prints the ends of the services' logs, and keeps all of them.
func (c *cluster) report() {
	dir, err := os.MkdirTemp("", "lockstep-survive-")
	if err != nil {
		c.t.Log(err)
		return
	}
	for _, h := range c.lab.Hosts() {
		for _, s := range []string{lab.Daemon, lab.Agent} {
			raw, err := os.ReadFile(h.LogFile(s))
			if err != nil {
				continue
			}
			kept := filepath.Join(dir, h.Name+"-"+s+".log")
			if err := os.WriteFile(kept, raw, 0o600); err != nil {
				c.t.Log(err)
			}
			c.t.Logf("--- %s ends with ---\n%s", kept, raw[max(0, len(raw)-3000):])
		}
	}
}
