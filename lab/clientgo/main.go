// Command clientgo is what people write with client-go for a pod: it watches what it may, leads where others of
// its kind wait to, and tries to write.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const usage = `clientgo watch PORT RESOURCE…   answer on the port with what informers have of the resources, each GROUP/VERSION/RESOURCE,
                                of the pod's namespace, or by which words they were refused them
clientgo lead NAME              lead while it holds the lease of that name, and end when that is lost
clientgo create NAME            try to create a ConfigMap
clientgo set POD TYPE STATUS    set a condition of a pod
clientgo evict POD              evict a pod
clientgo balance SERVICE IP     say at which address a load balancer has a service`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "clientgo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return err
	}
	switch {
	case len(args) >= 3 && args[0] == "watch":
		return watch(ctx, config, string(namespace), args[1], args[2:])
	case len(args) == 2 && args[0] == "lead":
		return lead(ctx, config, string(namespace), args[1])
	case len(args) == 2 && args[0] == "create":
		return create(ctx, config, string(namespace), args[1])
	case len(args) == 4 && args[0] == "set":
		return set(ctx, config, string(namespace), args[1], corev1.PodCondition{
			Type: corev1.PodConditionType(args[2]), Status: corev1.ConditionStatus(args[3]), LastTransitionTime: metav1.Now()})
	case len(args) == 2 && args[0] == "evict":
		return evict(ctx, config, string(namespace), args[1])
	case len(args) == 3 && args[0] == "balance":
		return balance(ctx, config, string(namespace), args[1], args[2])
	}
	return errors.New(usage)
}

func create(ctx context.Context, config *rest.Config, namespace, name string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err = client.CoreV1().ConfigMaps(namespace).Create(ctx, made, metav1.CreateOptions{})
	return told(err)
}

// set has the condition by a patch, as controllers of load balancers do.
func set(ctx context.Context, config *rest.Config, namespace, pod string, c corev1.PodCondition) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.PodCondition{c}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(namespace).Patch(ctx, pod, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return told(err)
}

func evict(ctx context.Context, config *rest.Config, namespace, pod string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}}
	return told(client.CoreV1().Pods(namespace).EvictV1(ctx, eviction))
}

// balance tells the address by an update from what it has read, as MetalLB does.
func balance(ctx context.Context, config *rest.Config, namespace, name, ip string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	service, err := client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return told(err)
	}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
	_, err = client.CoreV1().Services(namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{})
	return told(err)
}

// told is an answer of the API's with its code and reason.
func told(err error) error {
	var refused apierrors.APIStatus
	if errors.As(err, &refused) {
		return fmt.Errorf("%d %s: %w", refused.Status().Code, refused.Status().Reason, err)
	}
	return err
}
