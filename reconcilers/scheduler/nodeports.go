package scheduler

import (
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/podstatus"
)

// nodePorts refuses nodes where another pod has a host port that the pod wants.
func nodePorts() predicate {
	return predicate{
		name: "NodePorts", scope: itself, wakes: PodGone, concerns: func(d *demand) bool { return len(d.load.ports) > 0 },
		ends:  func(*demand, *nodeInfo, *cluster) bool { return true },
		check: (*demand).portsFree, words: always("node(s) didn't have free ports for the requested pod ports"),
	}
}

func (d *demand) portsFree(n *nodeInfo, _ *cluster) bool {
	for _, want := range d.load.ports {
		for have := range n.ports {
			if have.port == want.port && have.protocol == want.protocol && (have.ip == want.ip || have.ip == "" || want.ip == "") {
				return false
			}
		}
	}
	return true
}

// hostPort is a port of a node; an empty ip is any address.
type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

// hostPorts returns the ports of a pod's containers, and of its init containers that keep running beside them.
func hostPorts(p *corev1.Pod) []hostPort {
	var out []hostPort
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; podstatus.Sidecar(c) {
			out = appendPorts(out, c)
		}
	}
	for i := range p.Spec.Containers {
		out = appendPorts(out, &p.Spec.Containers[i])
	}
	return out
}

func appendPorts(out []hostPort, c *corev1.Container) []hostPort {
	for _, port := range c.Ports {
		if port.HostPort > 0 {
			out = append(out, newHostPort(port))
		}
	}
	return out
}

func newHostPort(p corev1.ContainerPort) hostPort {
	out := hostPort{protocol: p.Protocol, ip: p.HostIP, port: p.HostPort}
	if out.protocol == "" {
		out.protocol = corev1.ProtocolTCP
	}
	if out.ip == "0.0.0.0" || out.ip == "::" {
		out.ip = ""
	}
	return out
}
