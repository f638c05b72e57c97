package probes

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubeprobe "k8s.io/kubernetes/pkg/probe"
	"k8s.io/kubernetes/pkg/probe/grpc"
	"k8s.io/kubernetes/pkg/probe/http"
	"k8s.io/kubernetes/pkg/probe/tcp"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// maxOutput is how much of a command's output a message carries, as the kubelet has it.
const maxOutput = 10 << 10

// target is whom a probe asks.
type target struct {
	spec      *corev1.Probe
	container *corev1.Container
	id        string
	ip        string
	timeout   time.Duration
}

// runner makes one attempt. An error means that the probe could not be made; it says nothing of the container.
type runner func(ctx context.Context, t target) (success bool, output string, err error)

// newRunner asks over the network as the kubelet does: with its own probers.
func newRunner(exec func(context.Context, string, []string, time.Duration) (int, string, error)) runner {
	httpProber, tcpProber, grpcProber := http.New(false), tcp.New(), grpc.New()
	return func(ctx context.Context, t target) (bool, string, error) {
		switch {
		case t.spec.HTTPGet != nil:
			request, err := http.NewRequestForHTTPGetAction(t.spec.HTTPGet, t.container, t.ip, "probe")
			if err != nil {
				return false, "", err
			}
			return judge(httpProber.Probe(request.WithContext(ctx), t.timeout))
		case t.spec.TCPSocket != nil:
			port, err := kubeprobe.ResolveContainerPort(t.spec.TCPSocket.Port, t.container)
			if err != nil {
				return false, "", err
			}
			host := t.spec.TCPSocket.Host
			if host == "" {
				host = t.ip
			}
			return judge(tcpProber.Probe(host, port, t.timeout))
		case t.spec.GRPC != nil:
			service := ""
			if t.spec.GRPC.Service != nil {
				service = *t.spec.GRPC.Service
			}
			return judge(grpcProber.Probe(t.ip, service, int(t.spec.GRPC.Port), t.timeout))
		case t.spec.Exec != nil && exec != nil:
			return runCommand(ctx, exec, t)
		}
		return false, "", errNoHandler
	}
}

func judge(result kubeprobe.Result, output string, err error) (bool, string, error) {
	switch {
	case err != nil:
		return false, "", err
	case result == kubeprobe.Success, result == kubeprobe.Warning:
		return true, output, nil
	case result == kubeprobe.Failure:
		return false, output, nil
	}
	return false, "", fmt.Errorf("the result is %s: %s", result, output)
}

func runCommand(ctx context.Context, exec func(context.Context, string, []string, time.Duration) (int, string, error), t target) (bool, string, error) {
	command := expand(t.spec.Exec.Command, t.container.Env)
	code, output, err := exec(ctx, t.id, command, t.timeout)
	if len(output) > maxOutput {
		output = output[:maxOutput]
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return false, fmt.Sprintf("command timed out: %q timed out after %v", command, t.timeout), nil
	case err != nil:
		return false, "", err
	}
	return code == 0, output, nil
}

// expand replaces `$(NAME)` by the container's literal variables, as the kubelet does for probes.
func expand(command []string, env []corev1.EnvVar) []string {
	variables := map[string]string{}
	for _, e := range env {
		variables[e.Name] = e.Value
	}
	mapping := expansion.MappingFuncFor(variables)
	expanded := make([]string, len(command))
	for i, word := range command {
		expanded[i] = expansion.Expand(word, mapping)
	}
	return expanded
}
