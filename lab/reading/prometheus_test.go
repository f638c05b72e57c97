package reading

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/lab/image"
)

// prometheusObjects are a Prometheus as people run it in a cluster: with an account, what that may read, and the usual scrape
// configuration, which asks the API for what each node's kubelet and cAdvisor measure. Debian's Prometheus is built without the
// discovery that would find the nodes, so they are named.
const prometheusObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: monitoring}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: prometheus}
rules:
- apiGroups: [""]
  resources: [nodes, nodes/metrics, nodes/proxy, services, endpoints, pods]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- nonResourceURLs: [/metrics]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: monitoring}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prometheus, namespace: monitoring}
data:
  prometheus.yml: |
    global: {scrape_interval: 5s}
    scrape_configs:
%s---
apiVersion: apps/v1
kind: Deployment
metadata: {name: prometheus, namespace: monitoring}
spec:
  selector: {matchLabels: {app: prometheus}}
  template:
    metadata:
      labels: {app: prometheus}
    spec:
      serviceAccountName: prometheus
      terminationGracePeriodSeconds: 5
      containers:
      - name: prometheus
        image: lab.example/prometheus:1
        args: [--config.file=/etc/prometheus/prometheus.yml, --storage.tsdb.path=/data]
        ports: [{containerPort: 9090}]
        readinessProbe: {httpGet: {path: /-/ready, port: 9090}, periodSeconds: 1}
        volumeMounts:
        - {name: config, mountPath: /etc/prometheus}
        - {name: data, mountPath: /data}
      volumes:
      - {name: config, configMap: {name: prometheus}}
      - {name: data, emptyDir: {}}
`

const scrapeJob = `    - job_name: %[1]s-%[2]s
      scheme: https
      metrics_path: /api/v1/nodes/%[1]s/proxy/metrics/%[2]s
      tls_config: {ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}
      authorization: {credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token}
      static_configs: [{targets: ["kubernetes.default.svc:443"]}]
`

// TestPrometheus: a real Prometheus in a pod, by its account's token, shows what containers and nodes use.
func TestPrometheus(t *testing.T) {
	ctx := t.Context()
	if err := cluster.packPrometheus(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	var jobs string
	for _, node := range []string{one, other} {
		for _, path := range []string{"cadvisor", "resource", "probes"} {
			jobs += fmt.Sprintf(scrapeJob, node, path)
		}
	}
	if err := cluster.push(ctx, map[string]string{"prometheus.yaml": fmt.Sprintf(prometheusObjects, jobs)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // what the other tests read is left as it was
		err := os.Remove(filepath.Join(cluster.work, "prometheus.yaml"))
		if err := errors.Join(err, cluster.push(context.WithoutCancel(ctx), nil)); err != nil {
			t.Error(err)
		}
	})
	// On the node of its pod its address is answered.
	var address, node string
	until(t, "a Prometheus that is ready", func() error {
		out, ok := cluster.kubectl(t, "get", "pods", "-n", "monitoring", "-l", "app=prometheus", "-o",
			`jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.status.podIP} {.spec.nodeName}{end}`)
		if _, err := fmt.Sscan(out, &address, &node); !ok || err != nil {
			logs, _ := cluster.kubectl(t, "logs", "-n", "monitoring", "-l", "app=prometheus", "--tail=20")
			return fmt.Errorf("no pod is ready: %s%s", out, logs)
		}
		return nil
	})
	for _, c := range []struct{ what, query string }{
		{"a pod's containers", `container_memory_working_set_bytes{namespace="shop",container="main"} > 0`},
		{"processor time", `rate(container_cpu_usage_seconds_total{namespace="monitoring",container="prometheus"}[1m]) > 0`},
		{"the nodes", `count(rate(node_cpu_usage_seconds_total[1m]) > 0) == 2`},
		{"probes", `prober_probe_total{namespace="monitoring",probe_type="Readiness",result="successful"} > 0`},
		{"every answer", `count(up == 1) == 6`},
	} {
		until(t, c.what, func() error { return cluster.query(ctx, node, address, c.query) })
	}
}

// packPrometheus makes an image of the machine's Prometheus.
func (w *world) packPrometheus(ctx context.Context, dir string) error {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		return fmt.Errorf("cannot find prometheus (deps.sh test installs it): %w", err)
	}
	needs, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return fmt.Errorf("cannot tell what %s needs: %w", program, err)
	}
	files := map[string]string{program: "/bin/prometheus"}
	for _, word := range strings.Fields(string(needs)) {
		if filepath.IsAbs(word) {
			files[word] = word
		}
	}
	i := image.Image{Entrypoint: []string{"/bin/prometheus"}}
	for from, to := range files {
		f, err := image.Program(from, to)
		if err != nil {
			return err
		}
		i.Files = append(i.Files, f)
	}
	tar := filepath.Join(dir, "prometheus.tar")
	if err := i.Save(tar, "lab.example/prometheus:1"); err != nil {
		return err
	}
	return errors.Join(w.lab.Images(ctx, tar), os.Remove(tar))
}

// query asks the Prometheus at an address whether an expression has any result.
func (w *world) query(ctx context.Context, node, address, expression string) error {
	host, err := w.lab.Host(node)
	if err != nil {
		return err
	}
	out, err := host.Run(ctx, "curl", "-sS", "--max-time", "5", "--data-urlencode", "query="+expression,
		"http://"+address+":9090/api/v1/query")
	if err != nil {
		return err
	}
	var answer struct {
		Status string
		Data   struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Status != "success" || len(answer.Data.Result) == 0 {
		return fmt.Errorf("Prometheus answers %s", out)
	}
	return nil
}
