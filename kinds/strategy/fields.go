package strategy

import (
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"lockstep/kinds"
)

func podFields(o kinds.Object, set fields.Set) {
	p := o.(*corev1.Pod)
	set["spec.nodeName"] = p.Spec.NodeName
	set["spec.restartPolicy"] = string(p.Spec.RestartPolicy)
	set["spec.schedulerName"] = p.Spec.SchedulerName
	set["spec.serviceAccountName"] = p.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(p.Spec.HostNetwork)
	set["status.phase"] = string(p.Status.Phase)
	set["status.podIP"] = podIP(p)
	set["status.nominatedNodeName"] = p.Status.NominatedNodeName
}

func nodeFields(o kinds.Object, set fields.Set) {
	set["spec.unschedulable"] = strconv.FormatBool(o.(*corev1.Node).Spec.Unschedulable)
}

func namespaceFields(o kinds.Object, set fields.Set) {
	set["status.phase"] = string(o.(*corev1.Namespace).Status.Phase)
}

func secretFields(o kinds.Object, set fields.Set) {
	set["type"] = string(o.(*corev1.Secret).Type)
}

func serviceFields(o kinds.Object, set fields.Set) {
	s := o.(*corev1.Service)
	set["spec.clusterIP"] = s.Spec.ClusterIP
	set["spec.type"] = string(s.Spec.Type)
}

func replicationControllerFields(o kinds.Object, set fields.Set) {
	set["status.replicas"] = strconv.Itoa(int(o.(*corev1.ReplicationController).Status.Replicas))
}

func jobFields(o kinds.Object, set fields.Set) {
	set["status.successful"] = strconv.Itoa(int(o.(*batchv1.Job).Status.Succeeded))
}

func eventFields(o kinds.Object, set fields.Set) {
	e := o.(*corev1.Event)
	set["involvedObject.kind"] = e.InvolvedObject.Kind
	set["involvedObject.namespace"] = e.InvolvedObject.Namespace
	set["involvedObject.name"] = e.InvolvedObject.Name
	set["involvedObject.uid"] = string(e.InvolvedObject.UID)
	set["involvedObject.apiVersion"] = e.InvolvedObject.APIVersion
	set["involvedObject.resourceVersion"] = e.InvolvedObject.ResourceVersion
	set["involvedObject.fieldPath"] = e.InvolvedObject.FieldPath
	set["reason"] = e.Reason
	set["reportingComponent"] = e.ReportingController
	set["source"] = e.Source.Component
	if e.Source.Component == "" {
		set["source"] = e.ReportingController
	}
	set["type"] = e.Type
}

func podIP(p *corev1.Pod) string {
	if len(p.Status.PodIPs) > 0 {
		return p.Status.PodIPs[0].IP
	}
	return p.Status.PodIP
}
