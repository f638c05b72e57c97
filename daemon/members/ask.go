package members

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"lockstep/daemon/pki"
	"lockstep/daemon/rights"
	"lockstep/internal/pinned"
	"lockstep/internal/sleep"
)

const (
	// keyFile is the key that a token is bound to while a server joins.
	keyFile = "join.key"
	// askTimeout bounds one request, which is held for holdFor.
	askTimeout = holdFor + 10*time.Second
	// askPause is between two requests, tellEvery between two lines of the log about them.
	askPause, tellEvery = time.Second, 30 * time.Second
	// maxAnswer bounds an answer: keys, and the ledger of some ten thousand nodes.
	maxAnswer = 16 << 20
)

// Target is whom to ask, and with what.
type Target struct {
	// Server is https://host:port of any server of the cluster.
	Server string
	// Token is "<pin>.<id>.<secret>", which lockstep server token prints.
	Token string
}

// CheckToken says what is wrong with the text of a token.
func CheckToken(text string) error {
	if _, _, ok := pinned.Token(text); !ok {
		return errors.New("the token is not of the form <pin>.<id>.<secret> that lockstep server token prints")
	}
	return nil
}

// Ask asks until the request is granted, takes the cluster's keys into the vault, and returns the members; it returns an error where
// the server refuses, or ctx ends. Nothing is changed before it is granted, but the key that the token is bound to.
func Ask(ctx context.Context, to Target, vault pki.Dir, r JoinRequest, log *slog.Logger) (members map[string]string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot join the cluster of %s as server %s: %w", to.Server, r.Name, err)
		}
	}()
	if err := CheckToken(to.Token); err != nil {
		return nil, err
	}
	pin, bearer, _ := pinned.Token(to.Token)
	r.Token = bearer
	if r.CSR, err = request(vault, r.Name); err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: askTimeout, Transport: &http.Transport{TLSClientConfig: pinned.Config(pin)}}
	defer client.CloseIdleConnections()
	var told time.Time
	for {
		r.Now = time.Now()
		answer, err := post(ctx, client, strings.TrimRight(to.Server, "/")+rights.ServerPath, r)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && answer.Wait == "":
			return answer.Members, pki.Import(vault, pin, answer.Keys)
		case errors.Is(err, ErrRefused), errors.Is(err, pinned.ErrAuthority):
			return nil, err
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			log.Warn("this server is not one of the cluster yet", "cluster", to.Server, "waits for", answer.Wait, "error", err)
		}
		sleep.For(ctx, askPause)
	}
}

func post(ctx context.Context, client *http.Client, url string, r JoinRequest) (JoinAnswer, error) {
	var answer JoinAnswer
	body, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return answer, err
	}
	if response.StatusCode == http.StatusOK {
		return answer, json.Unmarshal(data, &answer)
	}
	var status struct{ Message string }
	if json.Unmarshal(data, &status) != nil || status.Message == "" {
		status.Message = strings.TrimSpace(string(data))
	}
	switch code := response.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code/100 != 4:
		return answer, fmt.Errorf("%s: %s", response.Status, status.Message)
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed:
		return answer, fmt.Errorf("%w: no server of a release that takes others answers there", ErrRefused)
	}
	return answer, fmt.Errorf("%w: %s", ErrRefused, strings.TrimPrefix(status.Message, ErrRefused.Error()+": "))
}

// request returns a certificate request by the key of this server, which is made if absent.
func request(vault pki.Dir, name string) (string, error) {
	data, err := vault.Read(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newKey(); err == nil {
			err = vault.Create(keyFile, data)
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot make a key to join with: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", errors.New("cannot read the key to join with: want PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("cannot read the key to join with: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return "", fmt.Errorf("cannot make a request to join: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}
