package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/daemon/control"
)

// TestViewersRead has a viewer of each kind read and be refused Secrets, users be refused what no role grants, and tokens end when
// their time is over or they are taken back.
func TestViewersRead(t *testing.T) {
	s := newServer(t, "one")
	s.start()
	s.untilReady()
	client := func(opts control.KubeconfigOptions) *kubernetes.Clientset {
		t.Helper()
		opts.Server = "https://" + s.api
		text, err := s.door().Kubeconfig(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.RESTConfigFromKubeConfig(text)
		if err != nil {
			t.Fatal(err)
		}
		if (config.BearerToken != "") != opts.Bearer || (len(config.CertData) == 0) != opts.Bearer {
			t.Errorf("%+v has the wrong credential", opts)
		}
		c, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, opts := range []control.KubeconfigOptions{{}, {Bearer: true}, {Bearer: true, TTL: time.Hour}} {
		c := client(opts)
		if _, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("%+v cannot read: %v", opts, err)
		}
		if _, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%+v reads Secrets: %v", opts, err)
		}
	}
	for _, opts := range []control.KubeconfigOptions{{User: "jane", Groups: []string{"dev"}}, {User: "jane", Bearer: true}} {
		c := client(opts)
		if _, err := c.Discovery().ServerVersion(); err != nil {
			t.Errorf("%+v is not known: %v", opts, err)
		}
		_, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		if want := `User "jane" cannot list resource "namespaces"`; !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v reads what no role grants: %v", opts, err)
		}
	}
	for _, opts := range []control.KubeconfigOptions{
		{User: "jane", Groups: []string{"system:masters"}}, {User: "system:admin"}, {Groups: []string{"dev"}},
	} {
		if _, err := s.door().Kubeconfig(t.Context(), opts); err == nil {
			t.Errorf("%+v is made", opts)
		}
	}
	short := client(control.KubeconfigOptions{Bearer: true, TTL: time.Second})
	s.until("a token expires", func() (string, bool) {
		_, err := short.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		return fmt.Sprint(err), apierrors.IsUnauthorized(err)
	})
	text, err := s.door().Kubeconfig(t.Context(), control.KubeconfigOptions{Bearer: true, Server: "https://" + s.api})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	taken := kubernetes.NewForConfigOrDie(config)
	id, _, _ := strings.Cut(config.BearerToken, ".")
	if err := s.door().DeleteToken(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := taken.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token that was taken back: %v", err)
	}
	if err := s.door().DeleteToken(t.Context(), id); err == nil {
		t.Error("a token is taken back twice")
	}
	s.stop()
}
