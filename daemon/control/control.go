// Package control is the door for root on the daemon's own machine: a unix socket beside the API.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
)

// SocketName is the socket's name below the run directory; its mode is 0600.
const SocketName = "control.sock"

// Report is the state of the cluster in the words of `lockstep status`.
type Report struct {
	Cluster string `json:"cluster"`
	Version string `json:"version"`
	Ready   string `json:"ready"` // empty: ready; else why not
	// Rebuild is how far the rebuild of a cluster is whose store was lost or restored; empty: nothing is to be rebuilt.
	Rebuild string `json:"rebuild,omitempty"`
	// Backup is why scheduled backups fail, and since when; empty: they do not, or there are none.
	Backup  string         `json:"backup,omitempty"`
	Sources []SourceReport `json:"sources"`
	Nodes   []NodeReport   `json:"nodes"`
	// Servers are those of the cluster, by name.
	Servers []ServerReport `json:"servers,omitempty"`
	// Standing says what is wrong with their number; empty: nothing is.
	Standing string `json:"standing,omitempty"`
	// Waiting counts the pods that wait for a node where there is none.
	Waiting int `json:"waiting,omitempty"`
	// Removed is the node that was taken out last, where there is none.
	Removed *RemovedNode `json:"removed,omitempty"`
	// Encryption tells how values are sealed in etcd.
	Encryption EncryptionReport `json:"encryption"`
	// Left are claims and volumes that nothing asks for any more, at most MaxLeft, and MoreLeft how many more there are.
	Left     []LeftReport `json:"left,omitempty"`
	MoreLeft int          `json:"moreLeft,omitempty"`
}

// EncryptionReport is how values are sealed in etcd.
type EncryptionReport struct {
	// Config is the file that states the keys; empty: the cluster has its own.
	Config string `json:"config,omitempty"`
	// Writes is the key of its own that the cluster seals with; empty: none yet.
	Writes string `json:"writes,omitempty"`
	// Values counts those that are sealed or are to be, by key; "" for what is not sealed yet.
	Values map[string]int `json:"values,omitempty"`
	// Stale counts those that are to be sealed anew.
	Stale int `json:"stale,omitempty"`
	// Doing says what is under way or waited for; empty: nothing.
	Doing string `json:"doing,omitempty"`
	// Rotated is when the last rotation ended; zero: there was none.
	Rotated time.Time `json:"rotated,omitzero"`
	// Unreadable are values that are there and cannot be read, by name, with the reasons.
	Unreadable map[string]string `json:"unreadable,omitempty"`
}

// MaxLeft bounds what a report tells of what is left over: as much as anybody reads.
const MaxLeft = 50

// LeftReport is a claim or a volume that nothing asks for any more.
type LeftReport struct {
	Object string `json:"object"` // "PersistentVolumeClaim shop/data"
	Size   string `json:"size"`   // as Kubernetes writes it
	Node   string `json:"node,omitempty"`
	Why    string `json:"why"`
}

// RemovedNode is a node that was taken out of the cluster.
type RemovedNode struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// SourceReport is one source with its objects.
type SourceReport struct {
	Name    string                `json:"name"`
	Where   string                `json:"where"`
	Folder  bool                  `json:"folder,omitempty"`
	Status  v1alpha1.SourceStatus `json:"status"`
	Objects []ObjectReport        `json:"objects"`
	// Addresses are URLs at which the source's services of type NodePort answer from this machine.
	Addresses []string `json:"addresses"`
}

// ObjectReport is one desired object.
type ObjectReport struct {
	Object string `json:"object"` // "Deployment shop/cart"
	File   string `json:"file"`   // path:line
	State  string `json:"state"`  // healthy, progressing, failed
	Cause  string `json:"cause,omitempty"`
}

// NodeReport is one node.
type NodeReport struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	Pods  int    `json:"pods"`
	// Troubles say what is not well with it: for how long nothing was heard of it, its pressures, a clock that is off.
	Troubles []string `json:"troubles,omitempty"`
}

// DriftReport is what was found that differs though nobody pushed.
type DriftReport struct {
	Findings []drift.Finding `json:"findings"`
	// Dropped counts those, of all sources and nodes, that are kept no longer.
	Dropped int64 `json:"dropped,omitempty"`
}

// PlanResult is what applying a source would change.
type PlanResult struct {
	Text    string `json:"text"`
	Changes bool   `json:"changes"`
}

// TokenReport is what is known of a token; its secret is not.
type TokenReport struct {
	ID      string    `json:"id"`
	Usages  []string  `json:"usages"` // of package pki
	User    string    `json:"user,omitempty"`
	Created time.Time `json:"created"`
	// Expires is zero for a token that does not.
	Expires time.Time `json:"expires,omitzero"`
}

// VolumeReport is a bound volume whose data can be reached on one node only.
type VolumeReport struct {
	Name string `json:"name"`
	// Claim is the one that has it, as namespace/name.
	Claim string `json:"claim"`
	// Path is where it is on the node.
	Path string `json:"path"`
}

// TokenOptions say what a new join token is good for.
type TokenOptions struct {
	// TTL is how long nodes can join with it.
	TTL time.Duration `json:"ttl"`
	// Node is the only name they can join under. Empty: any that is free.
	Node string `json:"node,omitempty"`
	// Server asks for a token with which a server joins instead of nodes, under ServerName alone unless that is empty.
	Server     bool   `json:"server,omitempty"`
	ServerName string `json:"serverName,omitempty"`
}

// ServerReport is one server of the cluster.
type ServerReport struct {
	Name string `json:"name"`
	// Address of its API; empty: it has not told it.
	Address string `json:"address,omitempty"`
	// Peer is where its etcd is reached; empty: nobody reaches it, or etcd is external.
	Peer string `json:"peer,omitempty"`
	// Role is leader, server, stand-by (it has no vote yet) or joining.
	Role string `json:"role"`
	// Self is the one that was asked.
	Self bool `json:"self,omitempty"`
	// Silence says for how long it has not been heard of; empty: it runs.
	Silence string `json:"silence,omitempty"`
	// Advice is what to do about it; empty: nothing.
	Advice string `json:"advice,omitempty"`
}

// KubeconfigOptions say what a kubeconfig holds.
type KubeconfigOptions struct {
	// User that bindings name. Empty: a viewer.
	User string `json:"user,omitempty"`
	// Groups of the user.
	Groups []string `json:"groups,omitempty"`
	// Server is the URL of the API. Empty: the address the daemon advertises.
	Server string `json:"server,omitempty"`
	// Bearer asks for a bearer token instead of a client certificate.
	Bearer bool `json:"bearer,omitempty"`
	// TTL is how long the credential holds. Zero: a year.
	TTL time.Duration `json:"ttl,omitempty"`
}

// CAReport is the cluster's CA, and how far its replacement is.
type CAReport struct {
	Pin   string    `json:"pin"`   // SHA-256 of the certificate that signs, in hex
	Until time.Time `json:"until"` // when that runs out
	// Phase is trust, sign or done; empty: it was never replaced.
	Phase string    `json:"phase,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Waits say who keeps it from its next phase.
	Waits []string `json:"waits,omitempty"`
}

// Backend answers what the door is asked. Its methods may be called at the same time.
type Backend interface {
	// Token makes a join token.
	Token(ctx context.Context, opts TokenOptions) (string, error)
	// Tokens lists all tokens, those of nodes and those of viewers, the newest first.
	Tokens(ctx context.Context) ([]TokenReport, error)
	// DeleteToken takes a token back. It is an error that there is none of that id.
	DeleteToken(ctx context.Context, id string) error
	// NodeVolumes lists the bound volumes that no node but the one of this name can reach, by claim; none where there is no such node.
	NodeVolumes(ctx context.Context, name string) ([]VolumeReport, error)
	// RemoveNode takes a node out of the cluster: its certificates hold no more, and its name is free. It is an error that
	// there is none of that name.
	RemoveNode(ctx context.Context, name string) error
	// RemoveServer takes a server out of the cluster, and returns what to know then. It is an error that there is none of that name.
	RemoveServer(ctx context.Context, name string) (string, error)
	// RotateCA begins to replace the cluster's CA; drop ends a replacement although something uses the old one still.
	RotateCA(ctx context.Context, drop bool) error
	// CA tells of the cluster's CA, and how far its replacement is.
	CA(ctx context.Context) (CAReport, error)
	// Kubeconfig makes a kubeconfig of a viewer or of a user. It is an error that a name is not for people.
	Kubeconfig(ctx context.Context, opts KubeconfigOptions) ([]byte, error)
	// Rotate begins to replace the key that values are sealed with, and returns the new one's name.
	Rotate(ctx context.Context) (string, error)
	// Discard deletes a value that cannot be read, by its name in the report.
	Discard(ctx context.Context, name string) error
	// Report tells the state of the cluster.
	Report(ctx context.Context) (Report, error)
	// Drift lists what differed though nobody pushed, the newest first, of all or of one source or node.
	Drift(ctx context.Context, source, node string) (DriftReport, error)
	// Plan tells what applying a source would change; it changes nothing.
	Plan(ctx context.Context, source v1alpha1.Source) (PlanResult, error)
	// Backup writes all that etcd has, encrypted to the recipients where there are any. With an error, what was written is of no use.
	Backup(ctx context.Context, recipients []string, to io.Writer) error
}

// Serve answers on the socket below runDir until ctx ends. A socket that an earlier process left is replaced.
func Serve(ctx context.Context, runDir string, b Backend) error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("cannot open the control socket: %w", err)
	}
	listener, err := listen(runDir)
	if err != nil {
		return fmt.Errorf("cannot open the control socket: %w", err)
	}
	defer os.Remove(filepath.Join(runDir, SocketName))
	server := &http.Server{Handler: handler(b), ReadHeaderTimeout: 5 * time.Second}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve the control socket: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		_ = server.Close()
		return nil
	})
	return g.Wait()
}

// listen makes the socket in a folder that only root can enter and then puts it in its place, so that at no time somebody
// else can open it: its mode is that of every new file until it is changed.
func listen(runDir string) (net.Listener, error) {
	private, err := os.MkdirTemp(runDir, ".control-") // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	dir, err := os.Open(private)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// A socket's path may have 107 bytes; that of the folder's descriptor is short.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketName)})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	made := filepath.Join(private, SocketName)
	err = os.Chmod(made, 0o600)
	if err == nil {
		err = os.Rename(made, filepath.Join(runDir, SocketName))
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// maxBody bounds a request: a source's description is far smaller.
const maxBody = 1 << 20

func handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value)
	}
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		ttl, err := time.ParseDuration(r.URL.Query().Get("ttl"))
		if err != nil {
			http.Error(w, "cannot make a token: "+err.Error(), http.StatusBadRequest)
			return
		}
		query := r.URL.Query()
		token, err := b.Token(r.Context(), TokenOptions{
			TTL: ttl, Node: query.Get("node"), Server: query.Has("server"), ServerName: query.Get("server"),
		})
		answer(w, token, err)
	})
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		tokens, err := b.Tokens(r.Context())
		answer(w, tokens, err)
	})
	mux.HandleFunc("DELETE /token/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, b.DeleteToken(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("GET /node/{name}/volumes", func(w http.ResponseWriter, r *http.Request) {
		volumes, err := b.NodeVolumes(r.Context(), r.PathValue("name"))
		answer(w, volumes, err)
	})
	mux.HandleFunc("DELETE /node/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, b.RemoveNode(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("DELETE /server/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := b.RemoveServer(r.Context(), r.PathValue("name"))
		answer(w, text, err)
	})
	mux.HandleFunc("POST /ca", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, b.RotateCA(r.Context(), r.URL.Query().Has("drop")))
	})
	mux.HandleFunc("GET /ca", func(w http.ResponseWriter, r *http.Request) {
		report, err := b.CA(r.Context())
		answer(w, report, err)
	})
	mux.HandleFunc("POST /kubeconfig", func(w http.ResponseWriter, r *http.Request) {
		var opts KubeconfigOptions
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&opts); err != nil {
			http.Error(w, "cannot make a kubeconfig: "+err.Error(), http.StatusBadRequest)
			return
		}
		raw, err := b.Kubeconfig(r.Context(), opts)
		answer(w, string(raw), err)
	})
	mux.HandleFunc("POST /encryption/rotate", func(w http.ResponseWriter, r *http.Request) {
		key, err := b.Rotate(r.Context())
		answer(w, key, err)
	})
	mux.HandleFunc("DELETE /encryption/value", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, b.Discard(r.Context(), r.URL.Query().Get("name")))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		report, err := b.Report(r.Context())
		answer(w, report, err)
	})
	mux.HandleFunc("GET /drift", func(w http.ResponseWriter, r *http.Request) {
		report, err := b.Drift(r.Context(), r.URL.Query().Get("source"), r.URL.Query().Get("node"))
		answer(w, report, err)
	})
	mux.HandleFunc("POST /plan", func(w http.ResponseWriter, r *http.Request) {
		var source v1alpha1.Source
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&source); err != nil {
			http.Error(w, "cannot read the source: "+err.Error(), http.StatusBadRequest)
			return
		}
		result, err := b.Plan(r.Context(), source)
		answer(w, result, err)
	})
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) {
		sent := &sending{to: w}
		err := b.Backup(r.Context(), r.URL.Query()["recipient"], sent)
		switch {
		case err != nil && sent.begun:
			panic(http.ErrAbortHandler) // who reads must not take it for whole
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// sending notes whether anything was sent.
type sending struct {
	to    io.Writer
	begun bool
}

func (s *sending) Write(p []byte) (int, error) {
	s.begun = true
	return s.to.Write(p)
}

// Client talks to a daemon on this machine; it implements Backend.
type Client struct{ http *http.Client }

var _ Backend = (*Client)(nil)

// Dial returns a client of the daemon whose run directory is runDir. It connects at the first call.
func Dial(runDir string) *Client {
	path := filepath.Join(runDir, SocketName)
	return &Client{http: &http.Client{
		Timeout: 2 * time.Minute, // a plan may have to fetch a large repository first
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", path)
			switch {
			case errors.Is(err, os.ErrPermission):
				return nil, fmt.Errorf("only root may ask the daemon at %s (sudo lockstep …): %w", path, err)
			case err != nil:
				return nil, fmt.Errorf("no daemon answers at %s (is it running here? --run-dir names another folder): %w", path, err)
			}
			return conn, nil
		}},
	}}
}

// Token implements Backend.
func (c *Client) Token(ctx context.Context, opts TokenOptions) (string, error) {
	query := url.Values{"ttl": {opts.TTL.String()}}
	if opts.Node != "" {
		query.Set("node", opts.Node)
	}
	if opts.Server {
		query.Set("server", opts.ServerName)
	}
	return call[string](ctx, c, http.MethodPost, "/token?"+query.Encode(), nil)
}

// Tokens implements Backend.
func (c *Client) Tokens(ctx context.Context) ([]TokenReport, error) {
	return call[[]TokenReport](ctx, c, http.MethodGet, "/token", nil)
}

// DeleteToken implements Backend.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	_, err := call[any](ctx, c, http.MethodDelete, "/token/"+url.PathEscape(id), nil)
	return err
}

// NodeVolumes implements Backend.
func (c *Client) NodeVolumes(ctx context.Context, name string) ([]VolumeReport, error) {
	return call[[]VolumeReport](ctx, c, http.MethodGet, "/node/"+url.PathEscape(name)+"/volumes", nil)
}

// RemoveNode implements Backend.
func (c *Client) RemoveNode(ctx context.Context, name string) error {
	_, err := call[any](ctx, c, http.MethodDelete, "/node/"+url.PathEscape(name), nil)
	return err
}

// RemoveServer implements Backend.
func (c *Client) RemoveServer(ctx context.Context, name string) (string, error) {
	return call[string](ctx, c, http.MethodDelete, "/server/"+url.PathEscape(name), nil)
}

// RotateCA implements Backend.
func (c *Client) RotateCA(ctx context.Context, drop bool) error {
	path := "/ca"
	if drop {
		path += "?drop"
	}
	_, err := call[any](ctx, c, http.MethodPost, path, nil)
	return err
}

// CA implements Backend.
func (c *Client) CA(ctx context.Context) (CAReport, error) {
	return call[CAReport](ctx, c, http.MethodGet, "/ca", nil)
}

// Kubeconfig implements Backend.
func (c *Client) Kubeconfig(ctx context.Context, opts KubeconfigOptions) ([]byte, error) {
	text, err := call[string](ctx, c, http.MethodPost, "/kubeconfig", opts)
	return []byte(text), err
}

// Rotate implements Backend.
func (c *Client) Rotate(ctx context.Context) (string, error) {
	return call[string](ctx, c, http.MethodPost, "/encryption/rotate", nil)
}

// Discard implements Backend.
func (c *Client) Discard(ctx context.Context, name string) error {
	_, err := call[any](ctx, c, http.MethodDelete, "/encryption/value?"+url.Values{"name": {name}}.Encode(), nil)
	return err
}

// Report implements Backend.
func (c *Client) Report(ctx context.Context) (Report, error) {
	return call[Report](ctx, c, http.MethodGet, "/status", nil)
}

// Drift implements Backend.
func (c *Client) Drift(ctx context.Context, source, node string) (DriftReport, error) {
	return call[DriftReport](ctx, c, http.MethodGet, "/drift?"+url.Values{"source": {source}, "node": {node}}.Encode(), nil)
}

// Plan implements Backend.
func (c *Client) Plan(ctx context.Context, source v1alpha1.Source) (PlanResult, error) {
	return call[PlanResult](ctx, c, http.MethodPost, "/plan", source)
}

// Backup implements Backend.
func (c *Client) Backup(ctx context.Context, recipients []string, to io.Writer) error {
	path := "http://daemon/backup?" + url.Values{"recipient": recipients}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, path, nil)
	if err != nil {
		return fmt.Errorf("cannot ask the daemon: %w", err)
	}
	response, err := (&http.Client{Transport: c.http.Transport}).Do(request) // as long as it takes
	if err != nil {
		return fmt.Errorf("cannot ask the daemon: %w", errors.Unwrap(err))
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
		return errors.New(string(bytes.TrimSpace(text)))
	}
	if _, err := io.Copy(to, response.Body); err != nil {
		return fmt.Errorf("cannot take the backup, the daemon's log may tell more: %w", err)
	}
	return nil
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	raw, err := json.Marshal(body)
	if err != nil {
		return out, fmt.Errorf("cannot ask the daemon: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, bytes.NewReader(raw))
	if err != nil {
		return out, fmt.Errorf("cannot ask the daemon: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return out, fmt.Errorf("cannot ask the daemon: %w", errors.Unwrap(err))
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
		return out, errors.New(string(bytes.TrimSpace(text)))
	}
	if err := json.NewDecoder(response.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	return out, nil
}
