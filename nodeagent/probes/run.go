package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/version"
	kubeprobe "k8s.io/kubernetes/pkg/probe"
	"k8s.io/kubernetes/pkg/probe/http"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// maxOutput is how much of what a probe's target has said a message carries, as the kubelet has it for commands.
const maxOutput = 10 << 10

// target is whom a probe asks.
type target struct {
	spec      *corev1.Probe
	container *corev1.Container
	id        string
	ip        string
	timeout   time.Duration
}

// runner makes one attempt and returns before long once ctx ends. An error means that the probe could not be made; it
// says nothing of the container.
type runner func(ctx context.Context, t target) (kubeprobe.Result, string, error)

// newRunner asks over the network as the kubelet does: with its own probers where they end with ctx.
func newRunner(exec func(context.Context, string, []string, time.Duration) (int, string, error)) runner {
	httpProber := http.New(false)
	return func(ctx context.Context, t target) (kubeprobe.Result, string, error) {
		switch {
		case t.spec.HTTPGet != nil:
			request, err := Request(ctx, t.spec.HTTPGet, t.container, t.ip, "probe")
			if err != nil {
				return kubeprobe.Unknown, "", err
			}
			return httpProber.Probe(request, t.timeout)
		case t.spec.TCPSocket != nil:
			return connect(ctx, t)
		case t.spec.GRPC != nil:
			return checkHealth(ctx, t)
		case t.spec.Exec != nil && exec != nil:
			return runCommand(ctx, exec, t)
		}
		return kubeprobe.Unknown, "", errNoHandler
	}
}

// Request is what the kubelet would ask for a probe or, with the purpose "lifecycle", for a hook; ip is the pod's.
func Request(ctx context.Context, action *corev1.HTTPGetAction, c *corev1.Container, ip, purpose string) (*nethttp.Request, error) {
	request, err := http.NewRequestForHTTPGetAction(action, c, ip, purpose)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(action.HTTPHeaders, func(h corev1.HTTPHeader) bool { return strings.EqualFold(h.Name, "User-Agent") }) {
		request.Header.Set("User-Agent", userAgent(purpose))
	}
	return request.WithContext(ctx), nil
}

// userAgent names the Kubernetes that we are built from. What the kubelet's own function says comes from flags that
// only its build sets.
func userAgent(purpose string) string {
	return "kube-" + purpose + "/" + version.DefaultKubeBinaryVersion
}

// connect says whether a TCP connection can be opened.
func connect(ctx context.Context, t target) (kubeprobe.Result, string, error) {
	port, err := kubeprobe.ResolveContainerPort(t.spec.TCPSocket.Port, t.container)
	if err != nil {
		return kubeprobe.Unknown, "", err
	}
	host := t.spec.TCPSocket.Host
	if host == "" {
		host = t.ip
	}
	dialer := kubeprobe.ProbeDialer()
	dialer.Timeout = t.timeout
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return kubeprobe.Failure, err.Error(), nil
	}
	_ = conn.Close() // nothing was said over it
	return kubeprobe.Success, "", nil
}

// checkHealth asks by the gRPC health checking protocol, https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
func checkHealth(ctx context.Context, t target) (kubeprobe.Result, string, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	address := net.JoinHostPort(t.ip, strconv.Itoa(int(t.spec.GRPC.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(userAgent("probe")), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return kubeprobe.ProbeDialer().DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return kubeprobe.Unknown, "", err
	}
	defer conn.Close()
	var service string
	if t.spec.GRPC.Service != nil {
		service = *t.spec.GRPC.Service
	}
	response, err := grpchealth.NewHealthClient(conn).Check(ctx, &grpchealth.HealthCheckRequest{Service: service})
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded && conn.GetState() != connectivity.Ready:
		return kubeprobe.Failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, t.timeout,
			context.DeadlineExceeded), nil
	case code == codes.Unavailable:
		return kubeprobe.Failure, fmt.Sprintf("error: failed to connect service at %q: %s", address, status.Convert(err).Message()), nil
	case code == codes.DeadlineExceeded:
		return kubeprobe.Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", t.timeout), nil
	case code == codes.Unimplemented:
		return kubeprobe.Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " +
			status.Convert(err).Message(), nil
	case err != nil:
		return kubeprobe.Failure, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
	case response.GetStatus() != grpchealth.HealthCheckResponse_SERVING:
		return kubeprobe.Failure, fmt.Sprintf("service unhealthy (responded with %q)", response.GetStatus()), nil
	}
	return kubeprobe.Success, "service healthy", nil
}

func runCommand(ctx context.Context, exec func(context.Context, string, []string, time.Duration) (int, string, error),
	t target) (kubeprobe.Result, string, error) {
	command := expand(t.spec.Exec.Command, t.container.Env)
	code, output, err := exec(ctx, t.id, command, t.timeout)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return kubeprobe.Failure, fmt.Sprintf("command timed out: %q timed out after %v", command, t.timeout), nil
	case err != nil:
		return kubeprobe.Unknown, "", err
	case code != 0:
		return kubeprobe.Failure, output, nil
	}
	return kubeprobe.Success, output, nil
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
