package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestWhatTheEndCancelsIsNotTold(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	var out strings.Builder
	log, err := (&logFlags{level: "info", format: "text"}).logger(ctx, &out)
	if err != nil {
		t.Fatal(err)
	}
	cancelled := fmt.Errorf("cannot list containers: %w", context.Canceled)
	log.Warn("before", "error", cancelled)
	end()
	log.Warn("at the end", "error", cancelled)
	log.With("node", "n1").Warn("at the end", "pods", 3, "error", status.Error(codes.Canceled, "grpc"))
	log.WithGroup("g").Warn("at the end", "error", cancelled)
	log.Warn("disk", "error", errors.New("no space left"))
	log.Info("ended")
	if got := out.String(); strings.Contains(got, "at the end") || strings.Count(got, "\n") != 3 {
		t.Errorf("logged\n%s", got)
	}
}
