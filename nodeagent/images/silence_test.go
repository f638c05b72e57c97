package images

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestSilence: a registry that is slow takes its time; one that says nothing more ends the pull.
func TestSilence(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 15 {
			_, _ = io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		if r.URL.Path == "/hangs" {
			<-stop
		}
	}))
	defer server.Close()
	defer close(stop)
	read := func(limit time.Duration, path string) (context.Context, error) {
		ctx, heard := unlessSilent(t.Context(), limit)
		t.Cleanup(heard.end)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := (&http.Client{Transport: &hearingTransport{http.DefaultTransport, heard}}).Do(req)
		if err != nil {
			return ctx, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return ctx, err
	}
	// Fifteen times 100 ms are longer than the limit, each of them is not.
	const limit = time.Second
	ctx, err := read(limit, "/slow")
	if err != nil {
		t.Errorf("slow: %v", err)
	}
	time.Sleep(2 * limit) // nobody asks: silence does not count
	if ctx.Err() != nil {
		t.Errorf("ended while nothing was asked: %v", context.Cause(ctx))
	}
	if ctx, err := read(limit, "/hangs"); err == nil || !errors.Is(context.Cause(ctx), errSilent) {
		t.Errorf("hangs: %v, %v", err, context.Cause(ctx))
	}
}
