package spec

import "github.com/opencontainers/runtime-spec/specs-go"

// Device is the block device that a volume device shows, as it is on the host; its path is nobody's matter.
type Device struct {
	specs.LinuxDevice
	ReadOnly bool
}

// volumeDevices gives a container the devices of its volumes, and the right to use them.
func volumeDevices(in Input, l *specs.Linux) error {
	if len(in.Container.VolumeDevices) != len(in.Devices) {
		return configErrorf("container %q has %d volume devices and %d are set up", in.Container.Name,
			len(in.Container.VolumeDevices), len(in.Devices))
	}
	for i, v := range in.Container.VolumeDevices {
		d, access := in.Devices[i], "rwm"
		if d.ReadOnly {
			access = "r"
		}
		d.Path = containerPath(in, v.DevicePath)
		l.Devices = append(l.Devices, d.LinuxDevice)
		l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type,
			Major: &d.Major, Minor: &d.Minor, Access: access})
	}
	return nil
}
