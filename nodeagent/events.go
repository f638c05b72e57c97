package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"lockstep/nodeagent/client"
	"lockstep/nodeagent/register"
)

const (
	// eventRetry doubles up to lastEventRetry between tries to write an event
	// to a server that is away, unless it has answered somebody else.
	eventRetry     = time.Second
	lastEventRetry = 10 * time.Second
)

// lateSink writes events to the API and waits until there is one, and until it
// answers: what the agent finds when it starts, and what happens while it cannot
// join or the server is away, is told later instead of never. The broadcaster
// keeps the newest thousand meanwhile, and writes one after the other.
type lateSink struct {
	ctx       context.Context
	connected <-chan struct{}
	api       func() client.Interface
	answered  func() <-chan struct{} // closed by the server's next answer to anybody; asked for once connected
	log       *slog.Logger
}

func (s *lateSink) write(write func(*typedcorev1.EventSinkImpl) (*corev1.Event, error)) (*corev1.Event, error) {
	select {
	case <-s.connected:
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	for pause := eventRetry; ; pause = min(2*pause, lastEventRetry) {
		e, err := write(&typedcorev1.EventSinkImpl{Interface: s.api().CoreV1().Events("")})
		if answered(err) {
			if pause > eventRetry {
				s.log.Info("the server takes events again")
			}
			return e, err
		}
		if pause == eventRetry && s.ctx.Err() == nil {
			s.log.Warn("no server takes events: they wait until one answers", "error", err)
		}
		var back <-chan struct{}
		if register.Unanswered(err) {
			back = s.answered()
		}
		select {
		case <-s.ctx.Done():
			return nil, err
		case <-back:
		case <-time.After(pause):
		}
	}
}

// answered says that a server has heard a request and knows what to do with it,
// or that none ever will.
func answered(err error) bool {
	var request *rest.RequestConstructionError
	if status := apierrors.APIStatus(nil); err == nil || errors.As(err, &request) || !errors.As(err, &status) {
		return err == nil || request != nil
	}
	return !apierrors.IsServiceUnavailable(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err) &&
		!apierrors.IsTooManyRequests(err)
}

func (s *lateSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.write(func(to *typedcorev1.EventSinkImpl) (*corev1.Event, error) { return to.Create(e) })
}

func (s *lateSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.write(func(to *typedcorev1.EventSinkImpl) (*corev1.Event, error) { return to.Update(e) })
}

func (s *lateSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.write(func(to *typedcorev1.EventSinkImpl) (*corev1.Event, error) { return to.Patch(e, data) })
}
