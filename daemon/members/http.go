package members

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/pki"
)

const (
	// maxRequest bounds a request: a token, a name and a certificate request.
	maxRequest = 64 << 10
	// bodyTimeout is how long it may take: whoever sends it may be nobody.
	bodyTimeout = 10 * time.Second
)

// Handler answers POST rights.ServerPath.
func (d *Door) Handler(log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		var request JoinRequest
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&request); err != nil { // the decoder's own words may quote the token
			refused(w, http.StatusBadRequest, "cannot read the request: it is not of this release")
			return
		}
		granted, err := d.Join(r.Context(), request)
		switch {
		case errors.Is(err, pki.ErrToken), errors.Is(err, pki.ErrTokenExpired), errors.Is(err, pki.ErrTokenUse),
			errors.Is(err, pki.ErrTokenBound):
			log.Warn("a server was refused", "server", request.Name, "error", err)
			refused(w, http.StatusUnauthorized, err.Error())
		case errors.Is(err, pki.ErrRequest):
			refused(w, http.StatusBadRequest, err.Error())
		case errors.Is(err, ErrRefused):
			log.Warn("a server was refused", "server", request.Name, "error", err)
			refused(w, http.StatusConflict, err.Error())
		case err != nil:
			log.Error("a server could not join", "server", request.Name, "error", err)
			refused(w, http.StatusServiceUnavailable, err.Error())
		default:
			if granted.Wait == "" {
				log.Info("a server has the cluster's keys", "server", request.Name)
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(w).Encode(granted)
		}
	})
}

func refused(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Message: message,
	})
}
