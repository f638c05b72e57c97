package csidriver

import (
	"context"
	"net"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Registrar says what a driver is to a kubelet, as node-driver-registrar does.
type Registrar struct {
	// Name is the driver's, and Endpoint its socket as the kubelet sees it.
	Name, Endpoint string
	// Told is called with what the kubelet has made of it; empty: it is registered.
	Told func(why string)
	registerapi.UnimplementedRegistrationServer
}

// GetInfo implements pluginregistration.RegistrationServer.
func (r *Registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: r.Name, Endpoint: r.Endpoint,
		SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus implements pluginregistration.RegistrationServer.
func (r *Registrar) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (
	*registerapi.RegistrationStatusResponse, error,
) {
	if r.Told != nil {
		why := s.GetError()
		if why == "" && !s.GetPluginRegistered() {
			why = "refused"
		}
		r.Told(why)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// Serve serves a listener until ctx ends.
func (r *Registrar) Serve(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, r)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
