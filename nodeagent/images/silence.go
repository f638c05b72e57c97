package images

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errSilent ends a pull whose registry says nothing.
var errSilent = errors.New("the registry has sent nothing for " + silence.String())

// hearing watches what comes from the registries that one pull asks.
type hearing struct {
	limit time.Duration
	timer *time.Timer
	came  func(bytes int) // is told of what comes of an answer

	mu     sync.Mutex
	asking int // requests whose answers have not ended
}

// unlessSilent returns a context that ends with errSilent as its cause when requests are open and nothing has come for
// that long. Time without an open request, as while layers are unpacked, does not count. The caller ends the hearing.
func unlessSilent(ctx context.Context, limit time.Duration) (context.Context, *hearing) {
	ctx, cancel := context.WithCancelCause(ctx)
	h := &hearing{limit: limit, came: func(int) {}}
	h.timer = time.AfterFunc(limit, func() { cancel(errSilent) })
	h.timer.Stop()
	return ctx, h
}

func (h *hearing) end() { h.timer.Stop() }

// change notes that something has come, and that there are so many more open requests.
func (h *hearing) change(more int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking += more
	h.timer.Stop()
	if h.asking > 0 {
		h.timer.Reset(h.limit)
	}
}

// hearingTransport has its requests heard.
type hearingTransport struct {
	http.RoundTripper
	heard *hearing
}

// RoundTrip implements http.RoundTripper.
func (t *hearingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.heard.change(1)
	res, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		t.heard.change(-1)
		return nil, err
	}
	t.heard.change(0)
	res.Body = &hearingBody{ReadCloser: res.Body, heard: t.heard}
	return res, nil
}

type hearingBody struct {
	io.ReadCloser
	heard *hearing
	once  sync.Once
}

func (b *hearingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.heard.change(0)
		b.heard.came(n)
	}
	if err != nil {
		b.over()
	}
	return n, err
}

func (b *hearingBody) Close() error {
	b.over()
	return b.ReadCloser.Close()
}

func (b *hearingBody) over() { b.once.Do(func() { b.heard.change(-1) }) }
