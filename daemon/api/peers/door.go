package peers

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Door answers other servers, below rights.PeersPath: which nodes have connections here, and what their agents answer. It never asks a
// third server, so that no request goes round. Who asks was verified to be a server of the cluster.
func (p *Peers) Door() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nodesPath, func(w http.ResponseWriter, _ *http.Request) {
		ages := map[string]float64{}
		for node, since := range p.opts.Own.Since() {
			ages[node] = time.Since(since).Seconds()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(ages)
	})
	mux.HandleFunc("GET "+authorityPath, func(w http.ResponseWriter, _ *http.Request) {
		bundle, err := p.opts.Authority()
		if err != nil {
			http.Error(w, "the CA cannot be read", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(bundle)
	})
	mux.HandleFunc(agentPath+"{node}/", p.forward)
	return mux
}

// forward sends a request on to the agent of a node that has its connection here.
func (p *Peers) forward(w http.ResponseWriter, r *http.Request) {
	node := r.PathValue("node")
	own := p.opts.Own.Transport(node)
	if own == nil {
		w.Header().Set(forwardHeader, noAgent)
		http.Error(w, "the agent has no connection to this server", http.StatusMisdirectedRequest)
		return
	}
	// What goes to the agent ends with its answer, whether all of the request was read or not.
	ctx, end := context.WithCancel(r.Context())
	defer end()
	prefix := agentPath + node
	out := r.Clone(ctx)
	out.URL = &url.URL{
		Scheme: "http", Host: node, Path: strings.TrimPrefix(r.URL.Path, prefix),
		RawPath: strings.TrimPrefix(r.URL.RawPath, prefix), RawQuery: r.URL.RawQuery,
	}
	out.Host, out.RequestURI = node, ""
	answer, err := own.RoundTrip(out)
	if err != nil {
		w.Header().Set(forwardHeader, failed)
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() {
		end()
		answer.Body.Close()
	}()
	maps.Copy(w.Header(), answer.Header)
	w.Header().Del(forwardHeader) // an agent does not speak for a server
	w.WriteHeader(answer.StatusCode)
	flush(w)
	buffer := make([]byte, 32<<10)
	for {
		n, err := answer.Body.Read(buffer)
		if _, broke := w.Write(buffer[:n]); broke != nil {
			return
		}
		flush(w)
		if err != nil {
			return
		}
	}
}

func flush(w http.ResponseWriter) {
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}
