//go:build soak

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/net"

	"lockstep/internal/sleep"
	"lockstep/lab/faults/history"
	"lockstep/nodeagent/runtime"
)

const (
	// readWait is how long a client waits for an answer of the API before it asks another server, and callWait for one of the service.
	readWait = 3 * time.Second
	callWait = 2 * time.Second
	// Pauses between what clients do.
	pushPause, readPause, callPause, writePause, lookPause = 2 * time.Second, 250 * time.Millisecond, 200 * time.Millisecond,
		200 * time.Millisecond, 500 * time.Millisecond
)

// begin starts the clients, and returns what ends them.
func (c *cluster) begin() (end func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	var clients sync.WaitGroup
	again := func(pause time.Duration, f func()) {
		clients.Go(func() {
			for sleep.For(ctx, pause) {
				f()
			}
		})
	}
	number := 1
	again(pushPause, func() { number++; c.push(number) })
	for _, name := range []string{"reader", "other"} {
		first := 0
		again(readPause, func() { first++; c.read(name, first) })
	}
	for _, h := range c.lab.Agents() {
		name := h.Name
		again(callPause, func() { c.call(name) })
		again(lookPause, func() { c.look(name) })
	}
	again(lookPause, c.follow)
	for i := range 2 {
		pod, n := fmt.Sprintf("keep-%d", i), int64(0)
		again(writePause, func() { n++; c.write(pod, n) })
	}
	return func() { cancel(); clients.Wait() }
}

// git runs git as somebody with a name.
func (c *cluster) git(args ...string) {
	if out, err := gitCommand(c.ctx, args...).CombinedOutput(); err != nil {
		c.t.Errorf("git %v: %v: %s", args, err, out)
	}
}

func gitCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=a@b")
	return cmd
}

// push commits a number and pushes it.
func (c *cluster) push(n int) {
	c.mu.Lock()
	c.log.Pushes = append(c.log.Pushes, history.Push{Number: n})
	mine := len(c.log.Pushes) - 1
	c.mu.Unlock()
	text := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: numbers, namespace: %s}\ndata: {number: \"%d\"}\n", namespace, n)
	if err := os.WriteFile(filepath.Join(c.repo, "numbers.yaml"), []byte(text), 0o600); err != nil {
		c.t.Error(err)
		return
	}
	c.git("-C", c.repo, "add", "-A")
	c.git("-C", c.repo, "commit", "-q", "-m", fmt.Sprint("number ", n))
	if gitCommand(c.ctx, "-C", c.repo, "push", "-q", "origin", "main").Run() != nil {
		return
	}
	c.mu.Lock()
	c.log.Pushes[mine].Acked = true
	c.mu.Unlock()
}

// acked is the highest number whose push was acknowledged.
func (c *cluster) acked() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.log.Pushes {
		if p.Acked {
			n = max(n, p.Number)
		}
	}
	return n
}

// ask asks one server. Absent: it says that there is no such object.
func (c *cluster) ask(server, path string, into any) (header http.Header, absent bool, err error) {
	request, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "https://"+c.host(server).Addr+":6443"+path, nil)
	if err != nil {
		return nil, false, err
	}
	response, err := c.apis[server].Do(request)
	if err != nil {
		// A connection that has lost packets waits long before it sends them again.
		net.CloseIdleConnectionsFor(c.apis[server].Transport)
		return nil, false, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, false, err
	case response.StatusCode == http.StatusNotFound:
		return response.Header, true, nil
	case response.StatusCode != http.StatusOK:
		return nil, false, fmt.Errorf("%s answers %s: %.300s", server, response.Status, raw)
	case into == nil:
		return response.Header, false, nil
	}
	return response.Header, false, json.Unmarshal(raw, into)
}

// servers are the names of those that are asked, the nth first.
func (c *cluster) servers(n int) []string {
	var out []string
	for i := range c.order {
		out = append(out, c.order[(n+i)%len(c.order)])
	}
	return out
}

// get asks one server after the other.
func (c *cluster) get(path string, into any) error {
	var errs []error
	for _, s := range c.servers(0) {
		_, absent, err := c.ask(s, path, into)
		if err == nil && absent {
			return fmt.Errorf("there is no %s", path)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// read reads the number as a client, of the nth server, or else of the next.
func (c *cluster) read(client string, n int) {
	began := time.Now()
	for tries, s := range c.servers(n) {
		var object corev1.ConfigMap
		header, absent, err := c.ask(s, numbers, &object)
		if err != nil {
			continue
		}
		r := history.Read{Client: client, At: time.Now(), Data: header.Get("Lockstep-History"), Stale: header.Get("Warning") != ""}
		if !absent {
			r.Version, _ = strconv.ParseUint(object.ResourceVersion, 10, 64)
			r.Number, _ = strconv.Atoi(object.Data["number"])
		}
		c.mu.Lock()
		c.log.Reads = append(c.log.Reads, r)
		c.seen = max(c.seen, r.Number)
		c.reads = append(c.reads, history.Call{From: client, At: began, Took: time.Since(began), OK: true, Tries: tries})
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = append(c.reads, history.Call{From: client, At: began, Took: time.Since(began), Tries: len(c.apis)})
}

// from is a client on a host.
func (c *cluster) from(host string) (client *http.Client, closes func()) {
	h := c.host(host)
	client = &http.Client{Timeout: callWait, Transport: &http.Transport{DisableKeepAlives: true, DialContext: h.Dial}}
	return client, client.CloseIdleConnections
}

// call calls the service from a host.
func (c *cluster) call(host string) {
	call := c.answered(host)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
}

func (c *cluster) answered(host string) history.Call {
	client, closes := c.from(host)
	defer closes()
	began := time.Now()
	request, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "http://"+c.at+"/", nil)
	if err != nil {
		return history.Call{From: host, At: began}
	}
	response, err := client.Do(request)
	ok := err == nil && response.StatusCode == http.StatusOK
	if err == nil {
		_ = response.Body.Close()
	}
	return history.Call{From: host, At: began, Took: time.Since(began), OK: ok}
}

// look notes what runs on a host, by its containerd, which is asked from the machine: also where the host is off the network.
func (c *cluster) look(host string) {
	h := c.host(host)
	asked := time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, callWait)
	defer cancel()
	found, err := list(ctx, &h)
	if err != nil {
		return // it may have been killed
	}
	answered := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range found {
		if f.State != runtime.Running || f.PodNamespace != namespace {
			continue
		}
		instance := host + "/" + f.ID
		run := c.runs[f.PodName+" "+instance]
		if run == nil {
			// What was told ran at some time between the question and the answer.
			run = &history.Run{Pod: f.PodName, Instance: instance, First: answered}
			c.runs[f.PodName+" "+instance] = run
		}
		run.Last = asked
	}
}

// follow notes claims and services, and where the pods are that keep data.
func (c *cluster) follow() {
	var claims corev1.PersistentVolumeClaimList
	var pods corev1.PodList
	var services corev1.ServiceList
	at := "/api/v1/namespaces/" + namespace
	if c.get(at+"/services", &services) != nil || c.get(at+"/persistentvolumeclaims", &claims) != nil ||
		c.get(at+"/pods?labelSelector=app%3Dkeep", &pods) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range claims.Items {
		c.log.Things = append(c.log.Things, history.Thing{Name: "claim " + claim.Name, UID: string(claim.UID), Has: claim.Spec.VolumeName})
	}
	for _, s := range services.Items {
		c.log.Things = append(c.log.Things, history.Thing{Name: "service " + s.Name, UID: string(s.UID), Has: s.Spec.ClusterIP})
	}
	for _, p := range pods.Items {
		c.where[p.Name] = p
	}
}

// pod is where a pod that keeps data was seen last.
func (c *cluster) pod(name string) corev1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.where[name]
}

// write has a pod keep a number, asked from its own node, and notes that it has said so.
func (c *cluster) write(pod string, n int64) {
	p := c.pod(pod)
	if p.Status.PodIP == "" || p.Spec.NodeName == "" {
		return
	}
	client, closes := c.from(p.Spec.NodeName)
	defer closes()
	if keeps(c.ctx, client, p.Status.PodIP, pod, n) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.log.Writes = append(c.log.Writes, history.Write{Pod: pod, Number: n})
	}
}
