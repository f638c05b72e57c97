package script

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lockstep/internal/sleep"
	"lockstep/lab"
)

// requests ask URLs from every agent, again and again, each time over a new connection.
type requests struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	answers  map[string]int // by first word
	failures []string
}

func newRequests(ctx context.Context, hosts []*lab.Host, urls []string) *requests {
	ctx, stop := context.WithCancel(ctx)
	r := &requests{stop: stop, answers: map[string]int{}}
	for _, h := range hosts {
		for _, url := range urls {
			r.done.Go(func() {
				for {
					answer, err := get(context.WithoutCancel(ctx), h, url)
					r.note(h, answer, err)
					if !sleep.For(ctx, 5*time.Millisecond) {
						return
					}
				}
			})
		}
	}
	return r
}

func (r *requests) note(h *lab.Host, answer string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failures = append(r.failures, fmt.Sprintf("%s from %s: %v", time.Now().Format("15:04:05.000"), h.Name, err))
		return
	}
	r.answers[strings.SplitN(answer, " ", 2)[0]]++
}

// end returns once no request is under way.
func (r *requests) end() {
	r.stop()
	r.done.Wait()
}

func (c *scenario) startRequests(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 || c.requests != nil {
		return errUsage
	}
	if strings.Contains(args[0], "://") {
		c.requests = newRequests(c.t.Context(), c.lab.Hosts(), args)
		return nil
	}
	s, err := c.service(c.t.Context(), args[0])
	if err != nil {
		return err
	}
	c.requests = newRequests(c.t.Context(), c.lab.Agents(), c.urls(s))
	return nil
}

func (c *scenario) answered(ts *testscript.TestScript, args []string) error {
	r := c.requests
	if r == nil {
		return errors.New("no requests are being made")
	}
	r.end()
	c.requests = nil
	ts.Logf("%v, %d failures", r.answers, len(r.failures))
	if len(r.failures) > 0 {
		return fmt.Errorf("%d requests failed, the first: %s", len(r.failures), r.failures[0])
	}
	for _, want := range args {
		if r.answers[want] == 0 {
			return fmt.Errorf("%s was never answered, but %v", want, r.answers)
		}
	}
	return nil
}
