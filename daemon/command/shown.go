package command

import (
	"log/slog"
	"strings"

	"lockstep/internal/plain"
)

// shown makes the texts among the arguments of a format fit for a terminal: much of what is printed is others' words.
func shown(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			out[i] = plain.Text(v)
		case error:
			out[i] = plain.Text(v.Error())
		default:
			out[i] = arg
		}
	}
	return out
}

// maxLogged bounds a value in the log in bytes: a stack trace fits.
const maxLogged = 16 << 10

// logged makes a log's message or value fit for a terminal: JSON leaves most of what a terminal acts on as it is.
func logged(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(plain.Cut(a.Value.String(), maxLogged))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(plain.Cut(v.Error(), maxLogged))
		case []string:
			a.Value = slog.StringValue(plain.Cut(strings.Join(v, ", "), maxLogged))
		}
	}
	return a
}
