package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"lockstep/daemon/api/peers"
	"lockstep/daemon/pki"
)

const (
	// maxJoin bounds a join request: a token, a name and a certificate request.
	maxJoin = 64 << 10
	// joinBody is how long the few kilobytes of it may take: whoever sends them may be nobody.
	joinBody = 10 * time.Second
)

// JoinRequest is the body of POST /lockstep/v1/join, and, without its token and node, of POST /lockstep/v1/renew.
type JoinRequest struct {
	// Token is "<id>.<secret>". The client has compared the server's authority with the token's first part before.
	Token string `json:"token,omitempty"`
	Node  string `json:"node,omitempty"`
	// CSR is a certificate request in PEM; its subject is of no matter.
	CSR string `json:"csr"`
}

// JoinResponse answers both.
type JoinResponse struct {
	// Certificate of the node and CA, the cluster's authority, are PEM.
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	// Mark names the authority that signed, and those that CA has: see AuthorityHeader.
	Mark string `json:"mark,omitempty"`
}

// join sells a node certificate for a token. A free name is registered; a taken one needs the key it was registered
// with.
func (s *server) join(w http.ResponseWriter, r *http.Request) {
	request, ok := s.joinRequest(w, r)
	if !ok {
		return
	}
	certificate, err := s.joins.Join(r.Context(), request.Token, request.Node, []byte(request.CSR))
	s.joined(w, r, request.Node, certificate, err)
}

// renew sells a node that shows its certificate a new one for the same key.
func (s *server) renew(w http.ResponseWriter, r *http.Request) {
	request, ok := s.joinRequest(w, r)
	if !ok {
		return
	}
	self := identityOf(r.Context()).Node
	certificate, err := s.joins.Renew(self, r.TLS.VerifiedChains[0][0], []byte(request.CSR))
	s.joined(w, r, self, certificate, err)
}

func (s *server) joinRequest(w http.ResponseWriter, r *http.Request) (JoinRequest, bool) {
	var request JoinRequest
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(min(joinBody, s.opts.RequestTimeout)))
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoin))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		// The decoder's own words may quote the token.
		s.fail(w, r, apierrors.NewBadRequest("cannot read the request: want a JSON object of token, node and csr"))
		return request, false
	}
	return request, true
}

func (s *server) joined(w http.ResponseWriter, r *http.Request, name string, certificate []byte, err error) {
	switch {
	case errors.Is(err, pki.ErrToken):
		s.log.Warn("a node was refused", "node", name, "error", err)
		s.fail(w, r, apierrors.NewUnauthorized("the token is not valid"))
	case errors.Is(err, pki.ErrTaken), errors.Is(err, pki.ErrRemoved), errors.Is(err, pki.ErrUnproven):
		s.log.Warn("a node was refused", "node", name, "error", err)
		s.fail(w, r, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonAlreadyExists,
			Message: err.Error(), Details: &metav1.StatusDetails{Kind: "nodes", Name: name},
		}})
	case errors.Is(err, pki.ErrRequest):
		s.fail(w, r, apierrors.NewBadRequest(err.Error()))
	case err != nil:
		s.log.Error("a node could not join", "node", name, "error", err)
		s.fail(w, r, unavailable(err))
	default:
		s.log.Info("a node has its certificate", "node", name)
		responsewriters.WriteRawJSON(http.StatusOK, JoinResponse{
			Certificate: string(certificate), CA: string(s.opts.Authority.PEM()), Mark: s.opts.Authority.Mark(),
		}, w)
	}
}

// tunnel hands an agent's connection over.
func (s *server) tunnel(w http.ResponseWriter, r *http.Request) {
	if s.opts.Tunnels == nil {
		s.fail(w, r, noSuchPath())
		return
	}
	s.opts.Tunnels.Accept(w, r, identityOf(r.Context()).Node)
}

// noTunnel is the answer where a node's agent cannot be reached; trying again at once would not help. Why is nil where it has no
// connection here and there is no other server.
func noTunnel(name string, why error) error {
	message := "the agent of node " + name + " has no connection to this server"
	var unreached *peers.Unreached
	switch {
	case errors.As(why, &unreached):
		message = why.Error()
	case why != nil:
		message = "the agent of node " + name + " did not answer: " + why.Error()
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusBadGateway, Reason: metav1.StatusReasonServiceUnavailable,
		Message: message,
		Details: &metav1.StatusDetails{Kind: "nodes", Name: name},
	}}
}
