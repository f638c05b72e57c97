package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// check is one part of the answer to /readyz.
type check struct {
	name string
	run  func() error
	note func() string // what will fail it; nil: nothing is known
}

// noted is the note in brackets; empty: there is none.
func (c check) noted() string {
	if c.note != nil {
		if note := c.note(); note != "" {
			return " (" + note + ")"
		}
	}
	return ""
}

// probes mounts /livez (and /healthz), which say that the process answers, and /readyz, which says that it is of use.
func (s *server) probes(mux *http.ServeMux) {
	ping := check{name: "ping", run: func() error { return nil }}
	ready := []check{
		ping,
		{name: "etcd", run: s.store.Health},
		{name: "view", run: s.viewComplete},
	}
	if quorum := s.opts.Quorum; quorum != nil {
		ready = append([]check{ping, {"servers", quorum, s.opts.Silent}}, ready[1:]...) // the cause before what follows from it
	}
	if disk := s.opts.Disk; disk != nil {
		ready = append(ready, check{
			"disk",
			func() error { _, err := disk(); return err },
			func() string { warning, _ := disk(); return warning },
		})
	}
	for path, checks := range map[string][]check{"/healthz": {ping}, "/livez": {ping}, "/readyz": ready} {
		mux.Handle("GET "+path, probe(path[1:], checks))
		for _, c := range checks {
			mux.Handle("GET "+path+"/"+c.name, probe(c.name, []check{c}))
		}
	}
}

// viewComplete says whether the server has read the whole store.
func (s *server) viewComplete() error {
	select {
	case <-s.store.Ready():
	default:
		return errors.New("the store is still being read")
	}
	if !s.hub.Begun() {
		return errors.New("the windows are still being filled")
	}
	return nil
}

// probe answers "ok" or lists what is not, as Kubernetes' probes do: ?verbose lists everything, ?exclude=NAME skips.
// Nothing in it is secret: an anonymous client sees it.
func probe(name string, checks []check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		excluded := func(c check) bool { return slices.Contains(query["exclude"], c.name) }
		wrong, failed := make([]error, len(checks)), false
		for i, c := range checks {
			if !excluded(c) {
				wrong[i] = c.run()
				failed = failed || wrong[i] != nil
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if _, verbose := query["verbose"]; !failed && !verbose { // what nodes ask all the time: nothing is worded for it
			fmt.Fprint(w, "ok")
			return
		}
		var out strings.Builder
		for i, c := range checks {
			switch {
			case excluded(c):
				fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			case wrong[i] != nil:
				fmt.Fprintf(&out, "[-]%s failed: %v\n", c.name, wrong[i])
			default:
				fmt.Fprintf(&out, "[+]%s ok%s\n", c.name, c.noted())
			}
		}
		verdict := "passed"
		if failed {
			verdict = "failed"
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s%s check %s\n", out.String(), name, verdict)
	})
}
