package command

import (
	"fmt"
	"log/slog"
	"strings"
)

// grpcLog writes what grpc logs of its connections as debug lines: whoever uses a connection tells what matters of it.
type grpcLog struct{ *slog.Logger }

func (l grpcLog) line(args ...any) {
	l.Debug("grpc", "message", strings.TrimSpace(fmt.Sprint(args...)))
}

func (l grpcLog) linef(format string, args ...any) {
	l.Debug("grpc", "message", fmt.Sprintf(format, args...))
}

func (l grpcLog) Info(args ...any)                    { l.line(args...) }
func (l grpcLog) Infoln(args ...any)                  { l.line(args...) }
func (l grpcLog) Infof(format string, args ...any)    { l.linef(format, args...) }
func (l grpcLog) Warning(args ...any)                 { l.line(args...) }
func (l grpcLog) Warningln(args ...any)               { l.line(args...) }
func (l grpcLog) Warningf(format string, args ...any) { l.linef(format, args...) }
func (l grpcLog) Error(args ...any)                   { l.line(args...) }
func (l grpcLog) Errorln(args ...any)                 { l.line(args...) }
func (l grpcLog) Errorf(format string, args ...any)   { l.linef(format, args...) }
func (l grpcLog) Fatal(args ...any)                   { l.line(args...) }
func (l grpcLog) Fatalln(args ...any)                 { l.line(args...) }
func (l grpcLog) Fatalf(format string, args ...any)   { l.linef(format, args...) }

// V says no to all verbosity: nobody reads it.
func (grpcLog) V(int) bool { return false }
