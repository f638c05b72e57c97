package probes

import (
	"context"
	"fmt"
	"net"
	nethttp "net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
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

	"lockstep/nodeagent/variables"
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

// newRunner asks over the network as the kubelet does: with its own probers where they end with ctx, and in its words. Where
// time was over it is this package that says so, since its own clock counts.
func newRunner(exec Exec) runner {
	httpProber := http.New(false)
	return func(ctx context.Context, t target) (kubeprobe.Result, string, error) {
		ctx, p := newPatience(ctx, t.timeout)
		defer p.stop()
		switch {
		case t.spec.HTTPGet != nil:
			p.begin()
			return get(ctx, httpProber, t)
		case t.spec.TCPSocket != nil:
			p.begin()
			return connect(ctx, t)
		case t.spec.GRPC != nil:
			p.begin()
			return checkHealth(ctx, t)
		case t.spec.Exec != nil && exec != nil:
			return runCommand(ctx, exec, t, p.begin) // not before the command runs
		}
		return kubeprobe.Unknown, "", errNoHandler
	}
}

// get asks over HTTP. The prober has no clock of its own.
func get(ctx context.Context, prober http.Prober, t target) (kubeprobe.Result, string, error) {
	request, err := Request(ctx, t.spec.HTTPGet, t.container, t.ip, "probe")
	if err != nil {
		return kubeprobe.Unknown, "", err
	}
	result, output, err := prober.Probe(request, 0)
	if err == nil && result == kubeprobe.Failure && timedOut(ctx) {
		return result, fmt.Sprintf("Get %q: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
			request.URL.Redacted()), nil
	}
	return result, output, err
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
	address := net.JoinHostPort(host, strconv.Itoa(port))
	conn, err := kubeprobe.ProbeDialer().DialContext(ctx, "tcp", address)
	switch {
	case timedOut(ctx) && err != nil:
		return kubeprobe.Failure, fmt.Sprintf("dial tcp %s: i/o timeout", address), nil
	case err != nil:
		return kubeprobe.Failure, err.Error(), nil
	}
	_ = conn.Close() // nothing was said over it
	return kubeprobe.Success, "", nil
}

// dialAgain is how soon a gRPC probe dials again what refused it, within its time-out: most servers listen within a tenth of
// a second of their start.
var dialAgain = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// forEver is longer than any probe may last; gRPC adds it to the time of day.
const forEver = 365 * 24 * time.Hour

// checkHealth asks by the gRPC health checking protocol, https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
// As the kubelet it waits for a server that does not listen yet, until its time is over.
func checkHealth(ctx context.Context, t target) (kubeprobe.Result, string, error) {
	address := net.JoinHostPort(t.ip, strconv.Itoa(int(t.spec.GRPC.Port)))
	// An attempt to connect ends with the probe. gRPC's clock would end it while this process does not run, too.
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(userAgent("probe")), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: dialAgain, MinConnectTimeout: forEver}),
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
	response, err := grpchealth.NewHealthClient(conn).Check(ctx, &grpchealth.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch {
	case err != nil && timedOut(ctx) && conn.GetState() != connectivity.Ready:
		return kubeprobe.Failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, t.timeout,
			context.DeadlineExceeded), nil
	case err != nil && timedOut(ctx):
		return kubeprobe.Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", t.timeout), nil
	case status.Code(err) == codes.Unimplemented:
		return kubeprobe.Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " +
			status.Convert(err).Message(), nil
	case err != nil:
		return kubeprobe.Failure, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
	case response.GetStatus() != grpchealth.HealthCheckResponse_SERVING:
		return kubeprobe.Failure, fmt.Sprintf("service unhealthy (responded with %q)", response.GetStatus()), nil
	}
	return kubeprobe.Success, "service healthy", nil
}

func runCommand(ctx context.Context, exec Exec, t target, began func()) (kubeprobe.Result, string, error) {
	command, err := expand(t.spec.Exec.Command, t.container.Env)
	if err != nil {
		return kubeprobe.Unknown, "", err
	}
	code, output, err := exec(ctx, t.id, command, began)
	switch {
	case err != nil && timedOut(ctx):
		return kubeprobe.Failure, fmt.Sprintf("command timed out: %q timed out after %v", command, t.timeout), nil
	case err != nil:
		return kubeprobe.Unknown, "", err
	case code != 0:
		return kubeprobe.Failure, output, nil
	}
	return kubeprobe.Success, output, nil
}

// expand replaces `$(NAME)` by the container's literal variables, as the kubelet does for probes.
func expand(command []string, env []corev1.EnvVar) ([]string, error) {
	known := map[string]string{}
	for _, e := range env {
		known[e.Name] = e.Value
	}
	mapping, left := expansion.MappingFuncFor(known), variables.Most
	expanded := make([]string, len(command))
	for i, word := range command {
		var err error
		if expanded[i], err = variables.Expand(word, left, mapping); err != nil {
			return nil, fmt.Errorf("the command has more than %d bytes: %w", variables.Most, err)
		}
		left -= len(expanded[i])
	}
	return expanded, nil
}
