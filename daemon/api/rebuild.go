package api

import (
	"encoding/json"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"lockstep/internal/recall"
)

// maxOffer bounds a part of what a node runs: what it is cut to, and one object of etcd's 1 MiB beside, in JSON.
const maxOffer = 4 << 20

// rebuildState tells a node how far the rebuild of a store is that was lost.
func (s *server) rebuildState(w http.ResponseWriter, r *http.Request) {
	if s.opts.Rebuild == nil {
		s.fail(w, r, noSuchPath())
		return
	}
	responsewriters.WriteRawJSON(http.StatusOK, s.opts.Rebuild.Answer(identityOf(r.Context()).Node), w)
}

// rebuildOffer takes in a part of what a node runs.
func (s *server) rebuildOffer(w http.ResponseWriter, r *http.Request) {
	if s.opts.Rebuild == nil {
		s.fail(w, r, noSuchPath())
		return
	}
	var offer recall.Offer
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOffer)).Decode(&offer); err != nil {
		s.fail(w, r, apierrors.NewBadRequest("cannot read the offer: want a JSON object of at most 4 MiB"))
		return
	}
	node := identityOf(r.Context()).Node
	answer, err := s.opts.Rebuild.Offer(r.Context(), node, offer)
	if err != nil {
		s.log.Warn("cannot take in what a node runs yet", "node", node, "error", err)
		s.fail(w, r, unavailable(err))
		return
	}
	responsewriters.WriteRawJSON(http.StatusOK, answer, w)
}
