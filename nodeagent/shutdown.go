package nodeagent

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/logind"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/shutdown"
)

const (
	// busRetry is the pause after the connection to logind was lost, and busAbsent that between looks for one that is not there.
	busRetry, busAbsent = 5 * time.Second, time.Minute
	// shutdownPoll is how often it is looked at whether pods have ended.
	shutdownPoll = 100 * time.Millisecond
)

// awaitShutdown has the machine's shutdown wait until the pods have ended in their order, until ctx ends. Without a policy, and where
// there is no logind, nothing waits.
func (a *Agent) awaitShutdown(ctx context.Context) error {
	told := ""
	for len(a.opts.Shutdown) > 0 {
		err := a.holdShutdown(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != told {
			told = err.Error()
			a.log.Warn("a shutdown of the machine does not wait for its pods", "error", err)
		}
		pause := busRetry
		if errors.Is(err, logind.ErrNone) {
			pause = busAbsent
		}
		if !sleep.For(ctx, pause) {
			return nil
		}
	}
	return nil
}

// holdShutdown does so while the connection to logind lasts. The error is never nil.
func (a *Agent) holdShutdown(ctx context.Context) error {
	conn, err := logind.Open(ctx, a.opts.systemBus, a.opts.logindConf)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Allow(ctx, a.opts.Shutdown.Total()); err != nil {
		return err
	}
	release, err := conn.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() { release() }()
	for {
		shutting, err := conn.Next(ctx)
		if err != nil {
			return err
		}
		a.tellShutdown(shutting)
		if shutting {
			a.endForShutdown(ctx)
			release()
			continue
		}
		release() // it may be held still
		if release, err = conn.Hold(ctx); err != nil {
			release = func() {}
			return err
		}
	}
}

// tellShutdown has the node say whether it shuts down.
func (a *Agent) tellShutdown(shutting bool) {
	a.mu.Lock()
	a.shutting = shutting
	a.mu.Unlock()
	message := "Shutdown manager detected shutdown event"
	if !shutting {
		message = "Shutdown manager detected shutdown cancellation"
	}
	a.log.Info("the machine's shutdown", "soon", shutting)
	a.events.Event(&corev1.ObjectReference{Kind: "Node", Name: a.opts.NodeName, UID: types.UID(a.opts.NodeName)},
		corev1.EventTypeNormal, "NodeShutdown", message)
	a.reportNode()
}

// endForShutdown ends all pods, those of one share of the policy after those of the one before, and returns when they have, and the
// API knows it, or their time is over.
func (a *Agent) endForShutdown(ctx context.Context) {
	var objects []*corev1.Pod
	byUID := map[types.UID]*pod.Pod{}
	for _, p := range a.allPods() {
		if w := p.Wanted(); !w.Refused() && !p.Settled() {
			objects = append(objects, w.Pod)
			byUID[w.Pod.UID] = p
		}
	}
	for _, group := range a.opts.Shutdown.Groups(objects) {
		for _, o := range group.Pods {
			byUID[o.UID].Shut(pods.Eviction{Reason: shutdown.Reason, Message: shutdown.Message, Grace: group.For(o), Pressure: true})
		}
		within, cancel := context.WithTimeout(ctx, group.Grace)
		for _, o := range group.Pods {
			for !byUID[o.UID].Settled() && sleep.For(within, shutdownPoll) {
			}
		}
		cancel()
	}
}
