package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "cluster")
	if s, err := Load(path); s != nil || err != nil {
		t.Fatalf("Load of nothing = %v, %v", s, err)
	}
	port := int32(80)
	want := State{
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.43.1.1", Ports: []corev1.ServicePort{{Port: 80}}}}},
		Slices: []*discoveryv1.EndpointSlice{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-x"},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.2"}}}, Ports: []discoveryv1.EndpointPort{{Port: &port}}}},
		Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.42.0.0/24"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.1"}},
				Images: []corev1.ContainerImage{{Names: []string{"not needed"}}}}}},
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		Ingresses:  []*networkingv1.Ingress{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}},
		Classes:    []*networkingv1.IngressClass{{ObjectMeta: metav1.ObjectMeta{Name: "lockstep"}}},
	}
	for range 2 {
		if err := Save(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want.Nodes[0].Status.Images = nil
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
}

// TestFileOfBeforeIngress: the file of an earlier release has four lists.
func TestFileOfBeforeIngress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster")
	if err := Save(path, State{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body := data[len(magic)+sha256.Size:]
	for range 2 { // what is empty is a length of some bytes of metadata
		last := 0
		for at := 0; at < len(body); at += 8 + int(binary.BigEndian.Uint64(body[at:])) {
			last = at
		}
		body = body[:last]
	}
	sum := sha256.Sum256(body)
	if err := os.WriteFile(path, append(append([]byte(magic), sum[:]...), body...), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil || len(s.Namespaces) != 1 || len(s.Ingresses)+len(s.Classes) != 0 {
		t.Errorf("Load = %v, %v", s, err)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster")
	if err := Save(path, State{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, whole...)
	flipped[len(flipped)-3] ^= 1
	for name, data := range map[string][]byte{"empty": nil, "cut": whole[:len(whole)-1], "flipped": flipped, "other": []byte("{}")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Load(path); err == nil {
			t.Errorf("%s: Load = %v, want an error", name, s)
		}
	}
}
