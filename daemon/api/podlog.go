package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	registrypod "k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"lockstep/store/view"
)

// podLog answers GET pods/<name>/log: Kubernetes' own code chooses the container and words the errors, and the node's
// agent, over its tunnel, has the lines.
func (s *server) podLog(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	// An empty namespace cannot be: the route has one.
	location, transport, err := s.logLocation(r.Context(), info.Namespace, info.Name, r.URL.Query())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if location == nil {
		w.WriteHeader(http.StatusNoContent) // the pod is not bound yet
		return
	}
	s.relay(w, r, location, transport, schema.GroupResource{Resource: "pods"}, info.Name)
}

func (s *server) logLocation(ctx context.Context, namespace, name string, query url.Values) (*url.URL, http.RoundTripper, error) {
	opts := &core.PodLogOptions{}
	if err := legacyscheme.ParameterCodec.DecodeParameters(query, corev1.SchemeGroupVersion, opts); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if errs := corevalidation.ValidatePodLogOptions(opts, false); len(errs) > 0 {
		return nil, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, name, errs)
	}
	if opts.Stream == nil {
		all := core.LogStreamAll
		opts.Stream = &all
	}
	ctx = request.WithNamespace(ctx, namespace)
	return registrypod.LogLocation(ctx, internalPods{s}, agents{s}, name, opts)
}

// relay copies what an agent answers, as it comes.
func (s *server) relay(w http.ResponseWriter, r *http.Request, location *url.URL, transport http.RoundTripper,
	gr schema.GroupResource, name string) {
	streamer := &genericrest.LocationStreamer{
		Location: location, Transport: transport,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(gr, name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	stream, _, contentType, err := streamer.InputStream(r.Context(), "", "")
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			s.log.Debug("an agent was not reached", "node", location.Hostname(), "error", err)
			err = noTunnel(location.Hostname(), err)
		}
		s.fail(w, r, err)
		return
	}
	defer stream.Close()
	if wsstream.IsWebSocketRequest(r) {
		s.overWebsocket(w, r, stream)
		return
	}
	if contentType == "" {
		contentType = "text/plain"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	flusher, _ := w.(http.Flusher)
	buffer := make([]byte, 32<<10)
	for {
		n, err := stream.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			flusher.Flush()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && r.Context().Err() == nil {
				s.log.Debug("an agent's answer broke off", "node", location.Hostname(), "error", err)
			}
			return
		}
	}
}

// overWebsocket sends a stream in messages, in the protocols that Kubernetes has for browsers, which cannot read a stream.
func (s *server) overWebsocket(w http.ResponseWriter, r *http.Request, stream io.ReadCloser) {
	reader := wsstream.NewReader(stream, true, wsstream.NewDefaultReaderProtocols())
	if err := reader.Copy(takenOver{w, stream}, r); err != nil && r.Context().Err() == nil {
		s.log.Debug("a stream over a websocket broke off", "path", r.URL.Path, "error", err)
	}
}

// takenOver lets a websocket have the connection. The stream ends with it: nothing else tells that a client has gone.
type takenOver struct {
	http.ResponseWriter
	stream io.Closer
}

// Hijack implements http.Hijacker.
func (t takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	ours := &websocketConn{Conn: conn, stream: t.stream}
	return ours, bufio.NewReadWriter(buffered.Reader, bufio.NewWriter(ours)), nil
}

type websocketConn struct {
	net.Conn
	stream io.Closer
}

// Write gives each message the deadline that every other answer has.
func (c *websocketConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close ends the stream too.
func (c *websocketConn) Close() error {
	return errors.Join(c.stream.Close(), c.Conn.Close())
}

// internalPods gives Kubernetes' code the pods in its internal form.
type internalPods struct{ *server }

// Get implements registrypod.ResourceGetter.
func (p internalPods) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	found, ok := view.Get[*corev1.Pod](p.hub.View(), request.NamespaceValue(ctx), name)
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
	}
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(found, internal, nil); err != nil {
		return nil, err
	}
	return internal, nil
}

// agents says how a node's agent is reached.
type agents struct{ *server }

// GetConnectionInfo implements kubeletclient.ConnectionInfoGetter.
func (a agents) GetConnectionInfo(_ context.Context, name types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	transport := a.transport(string(name))
	if transport == nil {
		return nil, noTunnel(string(name), nil)
	}
	return &kubeletclient.ConnectionInfo{
		Scheme: "http", Hostname: string(name), Port: "80", Transport: transport, InsecureSkipTLSVerifyTransport: transport,
	}, nil
}

func (s *server) transport(name string) http.RoundTripper {
	if s.opts.Tunnels == nil {
		return nil
	}
	return s.opts.Tunnels.Transport(name)
}

// nodeReadable are the paths of an agent that a reader may see through /api/v1/nodes/<name>/proxy/.
var nodeReadable = map[string]bool{
	"stats/summary": true, "healthz": true,
	"metrics": true, "metrics/cadvisor": true, "metrics/resource": true, "metrics/probes": true,
}

// nodeProxy answers GET /api/v1/nodes/<name>/proxy/<path> for the readable paths from the node's agent.
func (s *server) nodeProxy(w http.ResponseWriter, r *http.Request) {
	info, _ := request.RequestInfoFrom(r.Context())
	path := ""
	if len(info.Parts) > 3 {
		path = strings.Join(info.Parts[3:], "/")
	}
	if !nodeReadable[path] {
		s.fail(w, r, noSuchPath())
		return
	}
	if _, ok := view.Get[*corev1.Node](s.hub.View(), "", info.Name); !ok {
		s.fail(w, r, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, info.Name))
		return
	}
	transport := s.transport(info.Name)
	if transport == nil {
		s.fail(w, r, noTunnel(info.Name, nil))
		return
	}
	location := &url.URL{Scheme: "http", Host: info.Name, Path: "/" + path, RawQuery: r.URL.RawQuery}
	s.relay(w, r, location, transport, schema.GroupResource{Resource: "nodes"}, info.Name)
}
