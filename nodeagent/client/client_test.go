package client

import (
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
)

// A clientset, and so its fake, is a client.
var (
	_ Interface = &kubernetes.Clientset{}
	_ Interface = &fake.Clientset{}
)

// TestOneBound has all groups count their requests together, by what the configuration says.
func TestOneBound(t *testing.T) {
	api, err := New(&rest.Config{Host: "https://127.0.0.1:1", QPS: 200, Burst: 400})
	if err != nil {
		t.Fatal(err)
	}
	bound := api.CoreV1().RESTClient().GetRateLimiter()
	if bound == nil || bound.QPS() != 200 {
		t.Errorf("the bound is %v", bound)
	}
	for name, group := range map[string]rest.Interface{
		"coordination": api.CoordinationV1().RESTClient(), "discovery": api.DiscoveryV1().RESTClient(),
		"node": api.NodeV1().RESTClient(), "networking": api.(*groups).networking,
	} {
		if group.GetRateLimiter() != bound {
			t.Errorf("%s counts by itself", name)
		}
	}
}
