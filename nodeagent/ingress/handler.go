package ingress

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/kinds/ingress"
	"lockstep/nodeagent/ingress/routes"
)

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.flights.Add(1)
	defer s.flights.Done()
	f := &flight{server: s, began: time.Now(), request: r, writer: w}
	f.client, _ = netip.ParseAddrPort(r.RemoteAddr) // a listener has no other
	f.route = s.table.Load().Match(r.Host, r.URL.Path)
	s.metrics.active.Inc()
	defer func() {
		s.metrics.active.Dec()
		f.done()
	}()
	if f.route == nil {
		fail(f, http.StatusNotFound)
		return
	}
	if f.answer() {
		return
	}
	if len(f.route.Backend.Endpoints) == 0 {
		fail(f, http.StatusServiceUnavailable)
		return
	}
	if most := f.route.Settings.Body; most > 0 {
		if r.ContentLength > most {
			fail(f, http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f.Context, f.cancel = ctx, cancel
	f.timer = time.AfterFunc(f.route.Settings.Read, f.silent)
	defer f.timer.Stop()
	s.forward.ServeHTTP(f, r.WithContext(f))
}

// answer answers what no backend is asked for, and says whether it did.
func (f *flight) answer() bool {
	set, r := &f.route.Settings, f.request
	from := f.client.Addr().Unmap()
	switch {
	case within(set.Deny, from), len(set.Allow) > 0 && !within(set.Allow, from):
		fail(f, http.StatusForbidden)
	case f.scheme() == "http" && (set.ForceTLS || set.ToTLS && f.route.TLS):
		f.redirect(f.toTLS(), http.StatusPermanentRedirect)
	case set.Redirect != "":
		f.redirect(set.Redirect, set.RedirectCode)
	case set.AppRoot != "" && r.URL.Path == "/":
		f.redirect(set.AppRoot, http.StatusFound)
	case set.CORS != nil && r.Method == http.MethodOptions:
		allowOrigin(f.Header(), set.CORS, r.Header.Get("Origin"))
		f.WriteHeader(http.StatusNoContent)
	default:
		return false
	}
	return true
}

// trusted says that the request comes from a proxy in front that is believed.
func (f *flight) trusted() bool { return within(f.server.opts.Trusted, f.client.Addr().Unmap()) }

// scheme is how the client asked, as far as that is known.
func (f *flight) scheme() string {
	if f.request.TLS != nil || f.trusted() && strings.EqualFold(f.request.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}

func (f *flight) toTLS() string {
	host := routes.Host(f.request.Host)
	if port := f.server.opts.HTTPS; port != DefaultHTTPS {
		host = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(port)))
	}
	return "https://" + host + f.request.URL.RequestURI()
}

func (f *flight) redirect(to string, code int) {
	f.Header().Set("Location", to)
	f.WriteHeader(code)
}

// fail answers with nothing but a code.
func fail(w http.ResponseWriter, code int) { http.Error(w, http.StatusText(code), code) }

// allowOrigin tells a browser what it may do with requests of an origin, as ingress-nginx does.
func allowOrigin(h http.Header, c *ingress.CORS, origin string) {
	switch {
	case slices.Contains(c.Origins, "*"):
		origin = "*" // to which browsers send no credentials, whatever else they are told
	case !slices.ContainsFunc(c.Origins, func(o string) bool { return fits(o, origin) }):
		return
	default:
		h.Add("Vary", "Origin")
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Methods", c.Methods)
	h.Set("Access-Control-Allow-Headers", c.Headers)
	h.Set("Access-Control-Max-Age", strconv.Itoa(c.MaxAge))
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if c.Expose != "" {
		h.Set("Access-Control-Expose-Headers", c.Expose)
	}
}

// fits says that an origin is the one that is allowed, or of a host below it.
func fits(allowed, origin string) bool {
	scheme, host, ok := strings.Cut(allowed, "://*")
	if !ok {
		return origin != "" && strings.EqualFold(allowed, origin)
	}
	rest, ok := strings.CutPrefix(strings.ToLower(origin), strings.ToLower(scheme)+"://")
	return ok && strings.HasSuffix(rest, strings.ToLower(host)) && len(rest) > len(host)
}
