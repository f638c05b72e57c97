package etcd

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo returns a zap logger that writes warnings and worse to slog; etcd is talkative below that. While closing is set
// nothing is written: etcd then warns of each listener that it was asked to close. What etcd dies of is the disk's to judge.
func zapTo(log *slog.Logger, closing *atomic.Bool, disk *disk) *zap.Logger {
	return zap.New(&core{log: log.With("component", "etcd"), closing: closing},
		zap.WithFatalHook(onDeath{disk, zapcore.WriteThenFatal}), zap.WithPanicHook(onDeath{disk, zapcore.WriteThenPanic}))
}

// core is a zapcore.Core over slog.
type core struct {
	log     *slog.Logger
	closing *atomic.Bool
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && !c.closing.Load() && c.log.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log.With(attributes(fields)...), closing: c.closing}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if !early(fields) {
		c.log.Log(context.Background(), level(e.Level), e.Message, attributes(fields)...)
	}
	return nil
}

// early says that etcd complains of a data directory that it has just made: the first term is on disk a tenth of a second
// later, and etcd looks again every few seconds.
func early(fields []zapcore.Field) bool {
	return slices.ContainsFunc(fields, func(f zapcore.Field) bool {
		err, ok := f.Interface.(error)
		return ok && strings.HasSuffix(err.Error(), "missing term information")
	})
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l >= zapcore.WarnLevel:
		return slog.LevelWarn
	case l >= zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func attributes(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
