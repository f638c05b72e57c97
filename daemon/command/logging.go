package command

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// asDebug writes everything as debug lines.
type asDebug struct{ slog.Handler }

func (h asDebug) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, min(l, slog.LevelDebug))
}

func (h asDebug) Handle(ctx context.Context, r slog.Record) error {
	r.Level = min(r.Level, slog.LevelDebug)
	if !h.Handler.Enabled(ctx, r.Level) { // logr hands errors over without asking
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h asDebug) WithAttrs(attrs []slog.Attr) slog.Handler {
	return asDebug{h.Handler.WithAttrs(attrs)}
}
func (h asDebug) WithGroup(name string) slog.Handler { return asDebug{h.Handler.WithGroup(name)} }

// untilEnd drops, once ctx has ended, lines that tell of what was cancelled: whatever was under way then says that it
// could not be done, and that is what was asked for. Other errors are told to the last.
type untilEnd struct {
	slog.Handler
	ctx context.Context
}

func (h untilEnd) Handle(ctx context.Context, r slog.Record) error {
	if h.ctx.Err() == nil {
		return h.Handler.Handle(ctx, r)
	}
	cancelled := false
	r.Attrs(func(a slog.Attr) bool {
		err, is := a.Value.Any().(error)
		cancelled = is && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled)
		return !cancelled
	})
	if cancelled {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h untilEnd) WithAttrs(attrs []slog.Attr) slog.Handler {
	return untilEnd{h.Handler.WithAttrs(attrs), h.ctx}
}

func (h untilEnd) WithGroup(name string) slog.Handler {
	return untilEnd{h.Handler.WithGroup(name), h.ctx}
}
