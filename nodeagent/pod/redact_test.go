package pod

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestRedact(t *testing.T) {
	secrets := map[string]*corev1.Secret{
		"none": nil,
		"key": {Data: map[string][]byte{
			"password": []byte("hunter2\n"), "long": []byte("hunter22"), "pin": []byte("1"),
			"lines": []byte("two\nlines"), "empty": nil,
		}},
	}
	cause := errors.New("cause")
	for text, want := range map[string]string{
		`exec: "hunter2": not found`:   `exec: "[secret]": not found`,
		`cannot open a/hunter22/b`:     `cannot open a/[secret]/b`,
		`exit code 1 after 10 s`:       `exit code [secret] after 10 s`,
		`exec: "two\nlines": no`:       `exec: "[secret]": no`,
		"two\nlines":                   "[secret]",
		`cannot create container main`: `cannot create container main`,
	} {
		err := fmt.Errorf("%s: %w", text, &stepError{"Reason", cause})
		got := redact(err, secrets)
		if got.Error() != want+": cause" {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		var step *stepError
		if !errors.Is(got, cause) || !errors.As(got, &step) {
			t.Errorf("%q has lost its cause", text)
		}
	}
	if redact(nil, secrets) != nil {
		t.Error("nil becomes an error")
	}
}
