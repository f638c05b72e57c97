package lab

import (
	"net"
	"net/http"
	"strings"
	"time"
)

// The account for which the registry has the repositories below private/.
const (
	RegistryUser     = "puller"
	RegistryPassword = "open-sesame"
)

const (
	// slowRate is how many bytes a second come of a blob in a repository below slow/: of a small program that takes half a minute, in
	// which a node tells twice how far it is.
	slowRate = 48 << 10
	// slowPiece comes at once: eight a second.
	slowPiece = slowRate / 8
)

// askAndDelay is a registry that asks who pulls from repositories below private/, unless it is the hub itself, and sends blobs of
// those below slow/ slowly.
func askAndDelay(registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/private/") && !isHub(r) && !isPuller(r):
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		case strings.HasPrefix(r.URL.Path, "/v2/slow/") && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
			w = slowWriter{w}
		}
		registry.ServeHTTP(w, r)
	})
}

func isHub(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

func isPuller(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == RegistryUser && password == RegistryPassword
}

// slowWriter sends slowRate bytes a second, until nobody wants them any more.
type slowWriter struct{ http.ResponseWriter }

func (w slowWriter) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var sent int
		sent, err = w.ResponseWriter.Write(p[n:min(n+slowPiece, len(p))])
		n += sent
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(time.Duration(sent) * time.Second / slowRate)
	}
	return n, err
}
