package reading

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install" // what Kubernetes' printers take are its internal types
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	kubeprinters "k8s.io/kubernetes/pkg/printers"
	"k8s.io/kubernetes/pkg/printers/internalversion"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// settled waits until the crashing pod has been restarted and everything else is ready.
func settled(t *testing.T) {
	t.Helper()
	until(t, "the pods are as they shall be", func() error {
		pods, err := cluster.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(pods.Items) != 6 {
			all := fmt.Sprintf("%d pods:", len(pods.Items))
			for _, p := range pods.Items {
				all += fmt.Sprintf("\n%s on %s, deleted %v: %s %+v", p.Name, p.Spec.NodeName, p.DeletionTimestamp, p.Status.Phase,
					p.Status.ContainerStatuses)
			}
			return errors.New(all)
		}
		for _, p := range pods.Items {
			ready := podstatus.Ready(&p.Status)
			if p.Name == "crash" {
				ready = len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
			}
			if !ready {
				return fmt.Errorf("%s/%s: %s %+v", p.Namespace, p.Name, p.Status.Phase, p.Status.ContainerStatuses)
			}
		}
		return nil
	})
}

func TestKubectl(t *testing.T) {
	settled(t)
	manifest := filepath.Join(t.TempDir(), "made.yaml")
	err := os.WriteFile(manifest, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made, namespace: shop}\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	const (
		toGit  = `changed by pushing to Git, not through its API`
		inMain = `in source main \(http://10\.99\.0\.2:3000/lab/main\.git, branch main\)`
	)
	for _, c := range []struct {
		args string
		fail bool
		want []string // regular expressions
		not  string
	}{
		{args: "get pods -A", want: []string{`(?m)^NAMESPACE +NAME +READY +STATUS +RESTARTS +AGE$`, `(?m)^talk +pair +2/2 +Running`}},
		{args: "get pods -n shop -o wide", want: []string{`cart-1-a +1/1 +Running +0 +\S+ +10\.42\.\S+ +rd-agent1 `}},
		{args: "get pod pair -n talk -o yaml", want: []string{
			`lockstep\.dev/file: talk\.yaml:5`, `lockstep\.dev/author: Ada <ada@example\.com>`,
			`lockstep\.dev/commit: [0-9a-f]{40}`, `lockstep\.dev/source: main`, `phase: Running`,
		}},
		{args: "get pod pair -n talk -o json", want: []string{`"kind": "Pod"`, `"phase": "Running"`}},
		{args: "get pod pair -n talk -o jsonpath={.spec.nodeName}:{.status.phase}", want: []string{`^rd-agent[12]:Running$`}},
		{args: "get pods -n shop -l app=cart -o name", want: []string{`^(pod/cart-[0-9a-z]+-[0-9a-z]{5}\n){2}$`}},
		{args: "get pods -n shop -l app!=cart,app -o name", want: []string{`^pod/cart-1-a\npod/cart-1-b\n$`}},
		{args: "get pods -A --field-selector spec.nodeName=rd-agent1,status.phase=Running -o wide",
			want: []string{`cart-1-a`}, not: `rd-agent2`},
		{args: "get pods -A --show-labels", want: []string{`(?m)LABELS$`, `(?m)app=pair$`}},
		{args: "get pods -A -L app", want: []string{`(?m)APP$`, `(?m)pair$`}},
		{args: "get pods -A --sort-by .metadata.name -o name", want: []string{`(?s)cart-1-a.*crash.*pair`}},
		{args: "get all -n shop", want: []string{`service/cart`, `deployment\.apps/cart +2/2`, `replicaset\.apps/cart-`, `pod/cart-`}},
		{args: "get deploy,rs,po,svc,endpointslices,no -A -o wide",
			want: []string{`lab\.example/talker:1`, `containerd://`, `endpointslice\.discovery\.k8s\.io/cart-`}},
		{args: "get sources", want: []string{`main`}},
		{args: "get pods -A --chunk-size 2 -o name", want: []string{`^(pod/\S+\n){6}$`}},
		{args: "get pods -A -o custom-columns=N:.metadata.name --no-headers", want: []string{`(?m)^pair$`}},
		{args: "get secrets -n shop", fail: true, want: []string{`Forbidden`}, not: `canary`},
		{args: "get pod nobody -n shop", fail: true, want: []string{`pods "nobody" not found`}},
		{args: "get rubbish", fail: true, want: []string{`the server doesn't have a resource type "rubbish"`}},
		{args: "get pods -A -l =!", fail: true, want: []string{`found '=', expected`}},
		{args: "get pods -A --field-selector spec.rubbish=1", fail: true, want: []string{`field label not supported`}},

		{args: "describe pod pair -n talk", want: []string{
			`Node: +rd-agent[12]/10\.99\.0\.3[12]`, `lockstep\.dev/file: talk\.yaml:5`, `(?s)Init Containers:\s+first:`,
			`(?s)Events:.*Scheduled.*Started`, `Exit Code: +0`,
		}},
		{args: "describe node rd-agent1", want: []string{
			`(?s)Conditions:.*Ready +True`, `PodCIDR: +10\.42\.`, `(?s)Non-terminated Pods:.*cart-1-a`,
			`HolderIdentity: +rd-agent1`, `containerd://`,
		}},
		{args: "describe deployment cart -n shop", want: []string{
			`Replicas: +2 desired \| 2 updated \| 2 total \| 2 available \| 0 unavailable`, `NewReplicaSet: +cart-`,
			`ScalingReplicaSet`,
		}},
		{args: "describe service cart -n shop",
			want: []string{`Type: +ClusterIP`, `IP: +10\.43\.`, `Endpoints: +10\.42\.\S+:8080,10\.42\.\S+:8080`}},
		{args: "describe ns shop", want: []string{`Status: +Active`}},

		{args: "logs pair -n talk -c two", want: []string{`^two line 1\ntwo line 2\ntwo line 3\ntwo line 4\n$`}},
		{args: "logs pair -n talk -c first", want: []string{`^first line 1\n$`}},
		{args: "logs pair -n talk", want: []string{`(?m)^one line 1$`}},
		{args: "logs pair -n talk -c two --tail 2", want: []string{`^two line 3\ntwo line 4\n$`}},
		{args: "logs pair -n talk -c two --since 1s", want: []string{`^$`}},
		{args: "logs pair -n talk -c two --since-time 2020-01-01T00:00:00Z --tail 1", want: []string{`^two line 4\n$`}},
		{args: "logs pair -n talk -c two --timestamps --tail 1", want: []string{`^\d{4}-\d\d-\d\dT\S+Z two line 4\n$`}},
		{args: "logs pair -n talk -c two --limit-bytes 12", want: []string{`^two line 1\nt$`}},
		{args: "logs pair -n talk --all-containers --prefix",
			want: []string{`\[pod/pair/first\] first line 1`, `\[pod/pair/one\] one line 1`, `\[pod/pair/two\] two line 4`}},
		{args: "logs crash -n talk --previous", want: []string{`crash line 1\ncrash line 2\ncrash line 3\n`}},
		{args: "logs -n shop -l app=cart --tail 1", want: []string{`^(cart line 5\n){2}$`}},
		{args: "logs deployment/cart -n shop --tail 1", want: []string{`cart line 5`}},
		{args: "logs pair -n talk -c nobody", fail: true, want: []string{`container nobody is not valid for pod pair`}},
		{args: "logs pair -n talk -c two --previous", fail: true,
			want: []string{`previous terminated container "two" in pod "pair" not found`}},

		{args: "events -n talk", want: []string{`BackOff`, `Started`}},
		{args: "events -n talk --for pod/pair", want: []string{`Pod/pair`}, not: `Pod/crash`},
		{args: "rollout status deployment/cart -n shop --timeout 20s", want: []string{`deployment "cart" successfully rolled out`}},
		{args: "rollout history deployment/cart -n shop", want: []string{`(?m)^1 +<none>$`}},
		{args: "wait --for=condition=Available deployment/cart -n shop --timeout 20s",
			want: []string{`deployment\.apps/cart condition met`}},
		{args: "wait --for=condition=Ready pod -l app=cart -n shop --timeout 20s", want: []string{`(condition met\s+.*){2}`}},
		{args: "wait --for=jsonpath={.status.phase}=Running pod/pair -n talk --timeout 20s", want: []string{`condition met`}},
		{args: "wait --for=delete pod/nobody -n talk --timeout 20s"},
		{args: "api-resources", want: []string{`(?m)^pods +po +v1 +true +Pod$`, `(?m)^sources +.*lockstep\.dev/v1alpha1 +false +Source$`}},
		{args: "api-resources --verbs=list,watch -o name", want: []string{`(?m)^deployments\.apps$`}},
		{args: "api-versions", want: []string{`(?m)^v1$`, `(?m)^apps/v1$`, `(?m)^lockstep\.dev/v1alpha1$`}},
		// Of its own version the test binary knows nothing.
		{args: "version", fail: true, want: []string{`Server Version: v1\.37\.\d+\+lockstep`}},
		{args: "cluster-info", want: []string{`control plane.* is running at .*https://127\.0\.0\.1:`}},
		{args: "auth whoami", want: []string{`lockstep:viewers`}},
		{args: "auth can-i list pods -A", want: []string{`^yes\n$`}},
		{args: "auth can-i get pods --subresource=log -n shop", want: []string{`^yes\n$`}},
		{args: "auth can-i delete pods -A", fail: true, want: []string{`(?m)^no`}},
		{args: "auth can-i get secrets -n shop", fail: true, want: []string{`(?m)^no`}},
		{args: "auth can-i --list -n shop", want: []string{`pods`}, not: `\[.*delete.*\]`},
		{args: "get --raw /readyz", want: []string{`^ok`}},

		{args: "explain pods", want: []string{`(?m)^KIND: +Pod$`, `(?m)^FIELDS:$`}},
		{args: "delete pod cart-1-a -n shop", fail: true, want: []string{toGit + `: Pod shop/cart-1-a comes from pods\.yaml:12 ` + inMain}},
		{args: "delete pod -l app=cart -n shop", fail: true,
			want: []string{`(?s)(Pod shop/cart-\S+ comes from cart\.yaml:5 ` + inMain + `.*){2}`}},
		{args: "delete deployment cart -n shop --cascade=orphan", fail: true, want: []string{toGit}},
		{args: "apply -f " + manifest, fail: true, want: []string{toGit, inMain}},
		{args: "apply --validate=false -f " + manifest, fail: true, want: []string{toGit, inMain}},
		{args: "apply --server-side --validate=false -f " + manifest, fail: true, want: []string{toGit, inMain}},
		{args: "create -f " + manifest + " --validate=false", fail: true, want: []string{toGit, inMain}},
		{args: "scale deployment cart -n shop --replicas 5", fail: true,
			want: []string{toGit, `Deployment shop/cart comes from cart\.yaml:5 ` + inMain}},
		{args: "label pod cart-1-a -n shop a=b", fail: true, want: []string{toGit, `pods\.yaml:12`}},
		{args: "rollout restart deployment/cart -n shop", fail: true, want: []string{toGit, `cart\.yaml:5`}},
		{args: "rollout undo deployment/cart -n shop", fail: true},
		{args: "set image deployment/cart -n shop main=x", fail: true, want: []string{toGit, `cart\.yaml:5`}},
		{args: "edit deployment cart -n shop --validate=false", fail: true, want: []string{toGit, `cart\.yaml:5`}},
		{args: "exec cart-1-a -n shop -- /talker", fail: true, want: []string{toGit, `pods\.yaml:12`}},
		{args: "port-forward pod/cart-1-a -n shop :8080", fail: true, want: []string{toGit, `pods\.yaml:12`}},
		{args: "cordon rd-agent1", want: []string{toGit}},
		{args: "drain rd-agent1 --ignore-daemonsets --force --timeout 5s", fail: true, want: []string{toGit}},
	} {
		t.Run(strings.ReplaceAll(c.args, "/", "_"), func(t *testing.T) {
			t.Parallel()
			out, ok := cluster.kubectl(t, strings.Fields(c.args)...)
			if ok == c.fail {
				t.Errorf("success %v, want %v", ok, !c.fail)
			}
			for _, want := range c.want {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("want %s", want)
				}
			}
			if c.not != "" && regexp.MustCompile(c.not).MatchString(out) {
				t.Errorf("do not want %s", c.not)
			}
			if t.Failed() {
				t.Logf("kubectl %s:\n%s", c.args, out)
			}
		})
	}
}

// TestFollow follows a log and a watch as they grow: every line once.
func TestFollow(t *testing.T) {
	settled(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	logs := lines(t, cluster.command(ctx, "logs", "-f", "pair", "-n", "talk", "-c", "one", "--tail", "1"))
	number := -1
	for range 5 {
		var n int
		line := <-logs
		if _, err := fmt.Sscanf(line, "one line %d", &n); err != nil || number >= 0 && n != number+1 {
			t.Fatalf("after line %d came %q", number, line)
		}
		number = n
	}

	watch := lines(t, cluster.command(ctx, "get", "pods", "-n", "shop", "-l", "app=cart", "-w", "--no-headers",
		"-o", "custom-columns=N:.metadata.name,R:.metadata.resourceVersion,S:.status.phase"))
	seen := map[string]bool{}
	names := map[string]bool{}
	until := func(replicas, want int) {
		t.Helper()
		if err := cluster.push(ctx, objects(replicas)); err != nil {
			t.Fatal(err)
		}
		for len(names) < want {
			line, ok := <-watch
			if !ok {
				t.Fatalf("the watch ended after %v", seen)
			}
			fields := strings.Fields(line)
			if id := strings.Join(fields[:2], " "); seen[id] {
				t.Errorf("%q came twice", line)
			} else {
				seen[id] = true
			}
			if fields[2] == "Running" {
				names[fields[0]] = true
			}
		}
	}
	until(4, 4)
	if err := cluster.push(ctx, objects(2)); err != nil {
		t.Fatal(err)
	}
	settled(t)
}

// lines are what a command prints, until the test ends.
func lines(t *testing.T, c *exec.Cmd) <-chan string {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = c.Process.Kill()
		<-done
		_ = c.Wait()
	})
	return lines
}

// TestColumnsAreKubernetes prints every kind with Kubernetes' own printers and wants kubectl to show the same.
func TestColumnsAreKubernetes(t *testing.T) {
	settled(t)
	generator := kubeprinters.NewTableGenerator().With(internalversion.AddHandlers)
	for _, k := range kinds.All {
		if k.Group == "lockstep.dev" || k.Resource == "secrets" {
			continue
		}
		t.Run(k.Resource, func(t *testing.T) {
			until(t, "the same lines", func() error {
				got, ok := cluster.kubectl(t, "get", k.Resource+"."+k.Version+"."+k.Group, "-A", "-o", "wide", "--show-labels")
				if !ok {
					return errors.New(got)
				}
				want := printed(t, generator, k)
				if want == "" && k.Declarable {
					return errors.New("there is none: others.yaml has to have one of each kind")
				}
				if want == "" {
					want = "No resources found\n"
				}
				if age.ReplaceAllString(got, "AGE") != age.ReplaceAllString(want, "AGE") {
					return fmt.Errorf("got\n%s\nwant\n%s", got, want)
				}
				return nil
			})
		})
	}
}

// age matches what time changes, and how wide it is printed.
var age = regexp.MustCompile(`(\b\d+[smhd](\d+[smh])?\b| ago|AGE|LAST SEEN|FIRST SEEN|RESTARTS) *`)

// printed is what Kubernetes' printers make of the objects of a kind.
func printed(t *testing.T, generator *kubeprinters.HumanReadableGenerator, k *kinds.Kind) string {
	t.Helper()
	path := "/api/" + k.Version + "/" + k.Resource
	if k.Group != "" {
		path = "/apis/" + k.Group + "/" + k.Version + "/" + k.Resource
	}
	raw, err := cluster.client.RESTClient().Get().AbsPath(path).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), raw)
	if err != nil {
		t.Fatal(err)
	}
	table, err := generator.GenerateTable(list, kubeprinters.GenerateOptions{Wide: true})
	if err != nil {
		// Where there is no printer, Kubernetes' API server shows what is plain.
		plain := rest.NewDefaultTableConvertor(schema.GroupResource{Group: k.Group, Resource: k.Resource})
		table, err = plain.ConvertToTable(t.Context(), list, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		t.Fatal(err)
	}
	for i := range table.Rows {
		table.Rows[i].Object.Object = items[i]
	}
	var out bytes.Buffer
	w := printers.GetNewTabWriter(&out)
	printer := printers.NewTablePrinter(printers.PrintOptions{WithNamespace: k.Namespaced, Wide: true, ShowLabels: true})
	if err := printer.PrintObj(table, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
