package reconcilers

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/csi"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// asked is what package csi decides of one part, as a loop: a call is told as an event, and what becomes of its answer follows.
func asked(part string, decide func(*view.View, kinds.Key, csi.Asks, time.Time) csi.Step, answer func(any) (any, error)) loop.Reconciler {
	r := loop.Reconciler{Name: "csi " + part, Component: "csi"}
	for _, k := range []*kinds.Kind{
		kinds.For[*storagev1.VolumeAttachment](), kinds.For[*storagev1.CSIDriver](), kinds.For[*storagev1.CSINode](),
		kinds.For[*storagev1.StorageClass](), kinds.For[*storagev1.CSIStorageCapacity](), kinds.For[*corev1.PersistentVolume](),
		kinds.For[*corev1.PersistentVolumeClaim](), kinds.For[*corev1.Node](), kinds.For[*corev1.Pod](), kinds.For[*corev1.Secret](),
	} {
		r.Reads = append(r.Reads, loop.Read{Kind: k})
		r.Writes = append(r.Writes, loop.Write{Kind: k, Create: true, Fields: []string{"metadata", "spec", "status", "capacity"}})
	}
	r.Decide = func(v *view.View, key kinds.Key, now time.Time) (d loop.Decision, _ error) {
		ask := func(name string) *csi.Driver {
			if strings.HasPrefix(name, "unknown") {
				return nil
			}
			able := &csi.Driver{Name: name, Topology: true, Online: true, Can: map[csipb.ControllerServiceCapability_RPC_Type]bool{}}
			if !strings.HasPrefix(name, "unable") {
				for c := range csipb.ControllerServiceCapability_RPC_Type_name {
					able.Can[csipb.ControllerServiceCapability_RPC_Type(c)] = true
				}
			}
			return able
		}
		tell := func(reason, format string, args ...any) {
			d.Events = append(d.Events, loop.Event{Type: "-", Reason: reason, Message: fmt.Sprintf(format, args...)})
		}
		for s := decide(v, key, ask, now); ; {
			for _, c := range s.Changes {
				how := map[bool]string{true: " (status)"}[c.Status] + map[bool]string{true: " (gone)"}[c.Gone]
				d.Wants = append(d.Wants, loop.Want{Object: c.Object, Reason: c.Reason + how})
			}
			for _, e := range s.Events {
				e.Event.Message += " (" + e.Component + ")"
				d.Events = append(d.Events, e.Event)
			}
			if s.Ask != "" {
				tell("Ask", "%s", s.Ask)
			}
			if s.Failed != nil {
				tell("Failed", "%v", s.Failed)
			}
			d.Again = s.Again
			if s.Call == nil {
				return d, nil
			}
			tell("Call", "%s near %v: %s", s.Call.Driver, s.Call.Near, spelt(s.Call.Request))
			if answer == nil {
				return d, nil
			}
			got, err := answer(s.Call.Request)
			s = s.Call.Then(got, err, now)
		}
	}
	return r
}

// spelt is a request as JSON, the same each time.
func spelt(request any) string {
	data, err := protojson.Marshal(request.(proto.Message))
	if err != nil {
		return err.Error()
	}
	var plain any
	if err := json.Unmarshal(data, &plain); err != nil {
		return err.Error()
	}
	data, _ = json.Marshal(plain)
	return fmt.Sprintf("%T %s", request, data)
}

// refusing answers everything with a failure.
func refusing(code codes.Code) func(any) (any, error) {
	return func(any) (any, error) { return nil, status.Error(code, "no") }
}

// obliging answers as a driver does.
func obliging(request any) (any, error) {
	switch r := request.(type) {
	case *csipb.CreateVolumeRequest:
		return &csipb.CreateVolumeResponse{Volume: &csipb.Volume{
			VolumeId: "vol-1", CapacityBytes: r.CapacityRange.RequiredBytes, VolumeContext: map[string]string{"a": "b"},
			AccessibleTopology: preferred(r),
		}}, nil
	case *csipb.DeleteVolumeRequest:
		return &csipb.DeleteVolumeResponse{}, nil
	case *csipb.ControllerPublishVolumeRequest:
		return &csipb.ControllerPublishVolumeResponse{PublishContext: map[string]string{"device": "/dev/x"}}, nil
	case *csipb.ControllerUnpublishVolumeRequest:
		return &csipb.ControllerUnpublishVolumeResponse{}, nil
	case *csipb.ControllerExpandVolumeRequest:
		return &csipb.ControllerExpandVolumeResponse{CapacityBytes: r.CapacityRange.RequiredBytes,
			NodeExpansionRequired: r.VolumeCapability.GetMount() != nil}, nil
	case *csipb.GetCapacityRequest:
		return &csipb.GetCapacityResponse{AvailableCapacity: 1 << 30}, nil
	}
	return nil, status.Error(codes.Unimplemented, "no")
}

// askedParts are the cases of package csi by their folders.
func askedParts() map[string]loop.Reconciler {
	attach := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Attach(v, k.Name, ask, now)
	}
	provision := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Provision(v, k.Namespace, k.Name, ask, now)
	}
	remove := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Remove(v, k.Name, false, ask, now)
	}
	kept := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Remove(v, k.Name, true, ask, now)
	}
	resize := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Resize(v, k.Namespace, k.Name, ask, now)
	}
	capacity := func(v *view.View, k kinds.Key, ask csi.Asks, now time.Time) csi.Step {
		return csi.Capacity(v, k.Name, ask, func(kinds.Key) time.Time { return time.Time{} }, now)
	}
	return map[string]loop.Reconciler{
		"csi/testdata/attach":            asked("attach", attach, obliging),
		"csi/testdata/attach-failed":     asked("attach", attach, refusing(codes.ResourceExhausted)),
		"csi/testdata/provision":         asked("provision", provision, obliging),
		"csi/testdata/provision-failed":  asked("provision", provision, refusing(codes.Internal)),
		"csi/testdata/provision-refused": asked("provision", provision, refusing(codes.ResourceExhausted)),
		"csi/testdata/remove":            asked("remove", remove, obliging),
		"csi/testdata/remove-failed":     asked("remove", remove, refusing(codes.FailedPrecondition)),
		"csi/testdata/remove-stated":     asked("remove", kept, obliging),
		"csi/testdata/resize":            asked("resize", resize, obliging),
		"csi/testdata/resize-failed":     asked("resize", resize, refusing(codes.OutOfRange)),
		"csi/testdata/capacity":          asked("capacity", capacity, obliging),
	}
}
