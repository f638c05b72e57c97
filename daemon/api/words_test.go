package api

import (
	"strings"
	"testing"

	"lockstep/kinds/v1alpha1"
)

// TestRefusalsSayWhatInstead changes the cluster in every way that kubectl knows: whatever kubectl makes of the answer, it
// shows why not, where the object is stated, and what to do instead, and no detour.
func TestRefusalsSayWhatInstead(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declareAll()
	t.Setenv("EDITOR", "sed -i s/replicas:.2/replicas:\\ 3/")
	const (
		toGit      = "this cluster is changed by pushing to Git, not through its API: "
		source     = "source main (https://git.example/shop.git, branch main); "
		service    = toGit + "Service shop/cart comes from shop/cart.yaml:60 in " + source
		deployment = toGit + "Deployment shop/cart comes from shop/cart.yaml:14 in " + source
		pod        = toGit + "Pod shop/cart-1-a comes from shop/cart.yaml:14 in " + source
		elsewhere  = toGit + "its manifests are in " + source
		inside     = pod + "what is done inside a container no commit would tell, so nobody may: " +
			"kubectl logs and kubectl describe say what it does"
		made    = pod + "it is made for Deployment shop/cart: change that one and push"
		asked   = "lockstep validate checks manifests, and lockstep plan shows what a push would change"
		nodes   = elsewhere
		removal = `lockstep node remove n1, on a server, takes the node out of the cluster, as does the annotation ` +
			`lockstep.dev/remove: "true"` + " in its manifest, and its pods are replaced elsewhere"
		noCordon = nodes + "a manifest of kind Node, with this name, sets its labels, annotations and taints, " +
			`spec.unschedulable (cordon) and the annotation lockstep.dev/drain: "true" (drain) and push`
		secret = `viewers cannot read Secrets, which kubectl apply, edit and diff begin with; ` +
			`a Secret is stated in Git as everything else: ` +
			"its manifests are in source main (https://git.example/shop.git, branch main); add or change it there and push"
	)
	for args, want := range map[string]string{
		"apply -f testdata/words/stated.yaml":                  service + "change it there and push",
		"apply -f testdata/words/new.yaml":                     elsewhere + "add it there and push",
		"apply --server-side -f testdata/words/stated.yaml":    service + "change it there and push",
		"apply --dry-run=server -f testdata/words/stated.yaml": service + asked,
		"apply --dry-run=server -f testdata/words/new.yaml":    elsewhere + asked,
		"create -f testdata/words/new.yaml":                    elsewhere + "add it there and push",
		"create configmap made -n shop --from-literal a=b":     elsewhere + "add it there and push",
		"replace -f testdata/words/stated.yaml":                service + "change it there and push",
		"diff -f testdata/words/stated.yaml":                   service + asked,
		"diff -f testdata/words/new.yaml":                      elsewhere + asked,
		"diff --server-side -f testdata/words/stated.yaml":     service + asked,
		"edit deployment cart -n shop":                         deployment + "change it there and push",
		"exec cart-1-a -n shop -- true":                        inside,
		"attach cart-1-a -n shop":                              inside,
		"debug cart-1-a -n shop --image=x":                     inside,
		"port-forward pod/cart-1-a 0:80 -n shop": pod +
			"connections go by Services: from outside the cluster, state one of type NodePort",
		"scale deployment cart -n shop --replicas 5":               deployment + "change spec.replicas there and push",
		"delete deployment cart -n shop --wait=false":              deployment + "remove it there and push",
		"delete pod cart-1-a -n shop --wait=false":                 made,
		"delete configmap cart-1-a -n shop --wait=false":           elsewhere + "none of them states it",
		"label pod cart-1-a -n shop a=b":                           made,
		"annotate deployment cart -n shop a=b":                     deployment + "change it there and push",
		`patch deployment cart -n shop -p {"spec":{"replicas":3}}`: deployment + "change it there and push",
		"rollout restart deployment/cart -n shop":                  deployment + "change it there and push",
		"set image deployment/cart main=x -n shop":                 deployment + "change it there and push",
		"drain n1 --ignore-daemonsets --force":                     noCordon,
		"taint node n1 a=b:NoSchedule":                             noCordon,
		"label node n1 a=b":                                        noCordon,
		"delete node n1":                                           nodes + removal,
		"apply -f testdata/words/node.yaml":                        noCordon,
		"create -f testdata/words/newnode.yaml":                    nodes + "a machine becomes one by lockstep agent",
		"apply -f testdata/words/secret.yaml":                      secret,
		"diff -f testdata/words/secret.yaml":                       secret,
		"edit secret cart-1-a -n shop":                             secret,
		"get secret cart-1-a -n shop":                              secret,
		"create -f testdata/words/secret.yaml":                     elsewhere + "add it there and push",
		"create --raw /api/v1/namespaces/shop/pods/cart-1-a/eviction -f testdata/words/eviction.json": "the manifest of a node drains it",
		"run x --image=x": elsewhere + "add it there and push",
		"expose deployment cart -n shop --port 80 --name other": elsewhere + "add it there and push",
		"get pods --as somebody":                                `User "alice" cannot impersonate resource "users"`,
	} {
		t.Run(args, func(t *testing.T) {
			out, ok := s.kubectl(t.Context(), strings.Fields(args)...)
			if ok || !strings.Contains(out, want) {
				t.Errorf("success %v, want a failure that says\n%s\nit says\n%s", ok, want, out)
			}
			if strings.Contains(out, "openapi") || strings.Contains(out, "validat") && !strings.Contains(want, "validat") {
				t.Errorf("it speaks of validation:\n%s", out)
			}
		})
	}
}

// TestRefusalsOfAFolder: what a folder states is edited there, and nothing is pushed.
func TestRefusalsOfAFolder(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	s.declareAll()
	s.put(&v1alpha1.Source{ObjectMeta: named("", "main"), Spec: v1alpha1.SourceSpec{Folder: "/srv/shop"}})
	const (
		edited = "this cluster is changed by editing its manifests, not through its API: "
		source = "source main (/srv/shop); "
	)
	for args, want := range map[string]string{
		"delete deployment cart -n shop --wait=false": edited + "Deployment shop/cart comes from shop/cart.yaml:14 in " + source +
			"remove it there\n",
		"apply -f testdata/words/new.yaml": edited + "its manifests are in " + source + "add it there\n",
		"get secret cart-1-a -n shop": "a Secret is stated in a manifest as everything else: its manifests are in " + source +
			"add or change it there\n",
	} {
		if out, ok := s.kubectl(t.Context(), strings.Fields(args)...); ok || !strings.Contains(out, want) {
			t.Errorf("%s: success %v, want a failure that says\n%s\nit says\n%s", args, ok, want, out)
		}
	}
	// Another source is in Git: what is new may be of either.
	s.put(&v1alpha1.Source{ObjectMeta: named("", "other"), Spec: v1alpha1.SourceSpec{URL: "https://git.example/other.git"}})
	if out, _ := s.kubectl(t.Context(), "apply", "-f", "testdata/words/new.yaml"); !strings.Contains(out, "add it there and push\n") {
		t.Errorf("it says\n%s", out)
	}
}

// TestExplain reads what fields there are, of Kubernetes' kinds and of our own.
func TestExplain(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	for what, want := range map[string]string{
		"pod.spec.containers.livenessProbe.httpGet.port": "FIELD: port <string>",
		"deployment.spec.template.spec.volumes.emptyDir": "sizeLimit\t<string>",
		"sources.spec":            "branch\t<string>",
		"configmap --recursive":   "binaryData\t<map[string]string>",
		"services.spec.clusterIP": "FIELD: clusterIP <string>",
	} {
		if out, ok := s.kubectl(t.Context(), append([]string{"explain"}, strings.Fields(what)...)...); !ok || !strings.Contains(out, want) {
			t.Errorf("explain %s: success %v, want %q in\n%s", what, ok, want, out)
		}
	}
}
