package nodeagent

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// lateSink writes events to the API and waits until there is one: what the
// agent finds when it starts, and what happens while it cannot join, is told
// later instead of never. The broadcaster keeps the newest thousand meanwhile.
type lateSink struct {
	ctx       context.Context
	connected <-chan struct{}
	api       func() kubernetes.Interface
}

func (s *lateSink) sink() (*typedcorev1.EventSinkImpl, error) {
	select {
	case <-s.connected:
		return &typedcorev1.EventSinkImpl{Interface: s.api().CoreV1().Events("")}, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *lateSink) Create(e *corev1.Event) (*corev1.Event, error) {
	to, err := s.sink()
	if err != nil {
		return nil, err
	}
	return to.Create(e)
}

func (s *lateSink) Update(e *corev1.Event) (*corev1.Event, error) {
	to, err := s.sink()
	if err != nil {
		return nil, err
	}
	return to.Update(e)
}

func (s *lateSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	to, err := s.sink()
	if err != nil {
		return nil, err
	}
	return to.Patch(e, data)
}
