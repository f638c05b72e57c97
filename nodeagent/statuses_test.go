package nodeagent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A server that is away is told once, and once that it is back; what it refuses is told each time.
func TestStatusesTellOfAnAbsentServerOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	s := newStatuses(&Agent{log: log})
	pods := []*slog.Logger{log.With("pod", "a"), log.With("pod", "b")}
	refused := apierrors.NewBadRequest("no")
	for _, err := range []error{
		nil, errors.New("connection refused"), apierrors.NewServiceUnavailable("starting"), errNeedless, errors.New("connection refused"),
		nil, nil, refused, refused,
		apierrors.NewTooManyRequests("slow", 1), refused,
	} {
		for _, p := range pods {
			s.tell(p, err)
		}
	}
	for what, want := range map[string]int{"no server takes statuses": 2, "takes statuses again": 2, "cannot report status": 6} {
		if got := strings.Count(out.String(), what); got != want {
			t.Errorf("%q %d times, want %d", what, got, want)
		}
	}
}
