package manifest

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/admission"
)

// actedOn lists, by the Go type that declares them, the fields of Kubernetes' types that Lockstep acts on (or that mean
// nothing to any cluster but are carried along, as labels do). A field that is not listed is refused where a manifest
// states it with anything but its default. TestFields walks the types: what a new version of Kubernetes adds is refused
// until it is listed here, and a name that no type has is an error.
var actedOn = fieldTable(`
TypeMeta: kind apiVersion
ObjectMeta: name namespace labels annotations
LabelSelector: matchLabels matchExpressions
LabelSelectorRequirement: key operator values

Namespace: metadata spec
NamespaceSpec: finalizers
Node: metadata spec status
NodeSpec: taints unschedulable
NodeStatus: capacity
Taint: key value effect
RuntimeClass: metadata handler overhead scheduling
Overhead: podFixed
Scheduling: nodeSelector tolerations
PriorityClass: metadata value globalDefault description preemptionPolicy
IngressClass: metadata spec
IngressClassSpec: controller parameters
IngressClassParametersReference: apiGroup kind name scope namespace
Ingress: metadata spec
IngressSpec: ingressClassName defaultBackend tls rules
IngressTLS: hosts secretName
IngressRule: host
IngressRuleValue: http
HTTPIngressRuleValue: paths
HTTPIngressPath: path pathType backend
IngressBackend: service
IngressServiceBackend: name port
ServiceBackendPort: name number
StorageClass: metadata provisioner parameters reclaimPolicy allowVolumeExpansion volumeBindingMode mountOptions allowedTopologies
TopologySelectorTerm: matchLabelExpressions
TopologySelectorLabelRequirement: key values
CSIDriver: metadata spec
CSIDriverSpec: attachRequired podInfoOnMount volumeLifecycleModes storageCapacity fsGroupPolicy tokenRequests requiresRepublish
CSIDriverSpec: serviceAccountTokenInSecrets seLinuxMount preventPodSchedulingIfMissing
TokenRequest: audience expirationSeconds
CSIStorageCapacity: metadata nodeTopology storageClassName capacity maximumVolumeSize
PersistentVolume: metadata spec
PersistentVolumeSpec: capacity accessModes claimRef persistentVolumeReclaimPolicy storageClassName mountOptions volumeMode
PersistentVolumeSpec: nodeAffinity
PersistentVolumeSource: hostPath local nfs csi
CSIPersistentVolumeSource: driver volumeHandle readOnly fsType volumeAttributes controllerPublishSecretRef nodeStageSecretRef
CSIPersistentVolumeSource: nodePublishSecretRef controllerExpandSecretRef nodeExpandSecretRef
SecretReference: name namespace
LocalVolumeSource: path fsType
NFSVolumeSource: server path readOnly
VolumeNodeAffinity: required
PersistentVolumeClaim: metadata spec
PersistentVolumeClaimSpec: accessModes selector resources volumeName storageClassName volumeMode
VolumeResourceRequirements: requests limits
EphemeralVolumeSource: volumeClaimTemplate
PersistentVolumeClaimTemplate: metadata spec
LimitRange: metadata spec
LimitRangeSpec: limits
LimitRangeItem: type max min default defaultRequest maxLimitRequestRatio
ResourceQuota: metadata spec
ResourceQuotaSpec: hard scopes scopeSelector
ScopeSelector: matchExpressions
ScopedResourceSelectorRequirement: scopeName operator values
ServiceAccount: metadata imagePullSecrets automountServiceAccountToken
ClusterRole: metadata rules aggregationRule
AggregationRule: clusterRoleSelectors
Role: metadata rules
PolicyRule: verbs apiGroups resources resourceNames nonResourceURLs
ClusterRoleBinding: metadata subjects roleRef
RoleBinding: metadata subjects roleRef
RoleRef: apiGroup kind name
Subject: kind apiGroup name namespace
Secret: metadata data stringData type immutable
ConfigMap: metadata data binaryData immutable

Service: metadata spec
ServiceSpec: type selector ports clusterIP clusterIPs ipFamilies ipFamilyPolicy externalName
ServiceSpec: sessionAffinity sessionAffinityConfig publishNotReadyAddresses
ServiceSpec: externalTrafficPolicy internalTrafficPolicy externalIPs loadBalancerClass allocateLoadBalancerNodePorts
ServicePort: name protocol appProtocol port targetPort nodePort
SessionAffinityConfig: clientIP
ClientIPConfig: timeoutSeconds

PodDisruptionBudget: metadata spec
PodDisruptionBudgetSpec: minAvailable maxUnavailable selector unhealthyPodEvictionPolicy
Endpoints: metadata subsets
EndpointSubset: addresses notReadyAddresses ports
EndpointAddress: ip hostname nodeName targetRef
EndpointSlice: metadata addressType endpoints ports
Endpoint: addresses conditions hostname targetRef nodeName zone
EndpointConditions: ready serving terminating
EndpointPort: name protocol port appProtocol
ObjectReference: kind namespace name uid apiVersion resourceVersion fieldPath

Deployment: metadata spec
DeploymentSpec: replicas selector template strategy minReadySeconds revisionHistoryLimit paused progressDeadlineSeconds
DeploymentStrategy: type rollingUpdate
RollingUpdateDeployment: maxUnavailable maxSurge
ReplicaSet: metadata spec
ReplicaSetSpec: replicas minReadySeconds selector template
DaemonSet: metadata spec
DaemonSetSpec: selector template updateStrategy minReadySeconds revisionHistoryLimit
DaemonSetUpdateStrategy: type rollingUpdate
RollingUpdateDaemonSet: maxUnavailable maxSurge
ReplicationController: metadata spec
ReplicationControllerSpec: replicas minReadySeconds selector template
StatefulSet: metadata spec
StatefulSetSpec: replicas selector template serviceName podManagementPolicy updateStrategy revisionHistoryLimit minReadySeconds
StatefulSetSpec: ordinals volumeClaimTemplates persistentVolumeClaimRetentionPolicy
StatefulSetPersistentVolumeClaimRetentionPolicy: whenDeleted whenScaled
StatefulSetUpdateStrategy: type rollingUpdate
RollingUpdateStatefulSetStrategy: partition maxUnavailable
StatefulSetOrdinals: start

HorizontalPodAutoscaler: metadata spec
HorizontalPodAutoscalerSpec: scaleTargetRef minReplicas maxReplicas metrics behavior
CrossVersionObjectReference: kind name apiVersion
MetricSpec: type resource containerResource
ResourceMetricSource: name target
ContainerResourceMetricSource: name target container
MetricTarget: type averageValue averageUtilization
HorizontalPodAutoscalerBehavior: scaleUp scaleDown
HPAScalingRules: stabilizationWindowSeconds selectPolicy policies tolerance
HPAScalingPolicy: type value periodSeconds

CronJob: metadata spec
CronJobSpec: schedule timeZone startingDeadlineSeconds concurrencyPolicy suspend jobTemplate
CronJobSpec: successfulJobsHistoryLimit failedJobsHistoryLimit
JobTemplateSpec: metadata spec
Job: metadata spec
JobSpec: parallelism completions completionMode suspend selector manualSelector template managedBy
JobSpec: backoffLimit backoffLimitPerIndex maxFailedIndexes activeDeadlineSeconds ttlSecondsAfterFinished
JobSpec: podFailurePolicy podReplacementPolicy successPolicy
PodFailurePolicy: rules
PodFailurePolicyRule: action onExitCodes onPodConditions
PodFailurePolicyOnExitCodesRequirement: containerName operator values
PodFailurePolicyOnPodConditionsPattern: type status
SuccessPolicy: rules
SuccessPolicyRule: succeededIndexes succeededCount

Pod: metadata spec
PodTemplate: metadata template
PodTemplateSpec: metadata spec
PodSpec: containers initContainers restartPolicy terminationGracePeriodSeconds volumes
PodSpec: dnsPolicy dnsConfig hostAliases hostname subdomain hostNetwork enableServiceLinks
PodSpec: nodeName nodeSelector affinity tolerations topologySpreadConstraints schedulerName schedulingGates
PodSpec: priorityClassName priority preemptionPolicy runtimeClassName overhead
PodSpec: serviceAccountName serviceAccount automountServiceAccountToken imagePullSecrets
PodSpec: securityContext shareProcessNamespace hostPID hostIPC activeDeadlineSeconds os setHostnameAsFQDN hostUsers
PodSpec: hostnameOverride resources readinessGates
PodReadinessGate: conditionType
PodOS: name
LocalObjectReference: name
PodDNSConfig: nameservers searches options
PodDNSConfigOption: name value
HostAlias: ip hostnames
PodSchedulingGate: name
Affinity: nodeAffinity podAffinity podAntiAffinity
NodeAffinity: requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution
NodeSelector: nodeSelectorTerms
PodAffinity: requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution
PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution preferredDuringSchedulingIgnoredDuringExecution
PodAffinityTerm: labelSelector namespaces topologyKey namespaceSelector matchLabelKeys mismatchLabelKeys
WeightedPodAffinityTerm: weight podAffinityTerm
TopologySpreadConstraint: maxSkew topologyKey whenUnsatisfiable labelSelector minDomains matchLabelKeys
TopologySpreadConstraint: nodeAffinityPolicy nodeTaintsPolicy
NodeSelectorTerm: matchExpressions matchFields
NodeSelectorRequirement: key operator values
PreferredSchedulingTerm: weight preference
Toleration: key operator value effect tolerationSeconds
PodSecurityContext: runAsUser runAsGroup runAsNonRoot supplementalGroups
PodSecurityContext: supplementalGroupsPolicy fsGroup fsGroupChangePolicy seccompProfile appArmorProfile
PodSecurityContext: seLinuxOptions seLinuxChangePolicy windowsOptions sysctls
Sysctl: name value

Container: name image command args workingDir imagePullPolicy ports env envFrom resources volumeMounts
Container: livenessProbe readinessProbe startupProbe lifecycle securityContext restartPolicy
Container: volumeDevices
Container: terminationMessagePath terminationMessagePolicy restartPolicyRules resizePolicy stdin stdinOnce tty
ContainerResizePolicy: resourceName restartPolicy
ContainerRestartRule: action exitCodes
ContainerRestartRuleOnExitCodes: operator values
ContainerPort: name hostPort containerPort protocol hostIP
EnvVar: name value valueFrom
EnvVarSource: fieldRef resourceFieldRef configMapKeyRef secretKeyRef fileKeyRef
FileKeySelector: volumeName path key optional
EnvFromSource: prefix configMapRef secretRef
ConfigMapEnvSource: optional
SecretEnvSource: optional
ConfigMapKeySelector: key optional
SecretKeySelector: key optional
ObjectFieldSelector: apiVersion fieldPath
ResourceFieldSelector: containerName resource divisor
ResourceRequirements: limits requests
VolumeMount: name mountPath readOnly recursiveReadOnly subPath subPathExpr mountPropagation
SecurityContext: capabilities privileged runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem
SecurityContext: allowPrivilegeEscalation seccompProfile procMount appArmorProfile seLinuxOptions windowsOptions
Capabilities: add drop
SeccompProfile: type localhostProfile
AppArmorProfile: type localhostProfile
SELinuxOptions: user role type level
WindowsSecurityContextOptions: gmsaCredentialSpecName gmsaCredentialSpec runAsUserName hostProcess
Probe: initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold terminationGracePeriodSeconds
ProbeHandler: exec httpGet tcpSocket grpc
GRPCAction: port service
ExecAction: command
HTTPGetAction: path port host scheme httpHeaders
HTTPHeader: name value
TCPSocketAction: port host
Lifecycle: postStart preStop stopSignal
LifecycleHandler: exec httpGet sleep
SleepAction: seconds

Volume: name
VolumeSource: emptyDir configMap secret downwardAPI projected hostPath image nfs csi
VolumeSource: persistentVolumeClaim ephemeral
PersistentVolumeClaimVolumeSource: claimName readOnly
CSIVolumeSource: driver readOnly fsType volumeAttributes nodePublishSecretRef
VolumeDevice: name devicePath
EmptyDirVolumeSource: medium sizeLimit
ConfigMapVolumeSource: items defaultMode optional
SecretVolumeSource: secretName items defaultMode optional
DownwardAPIVolumeSource: items defaultMode
DownwardAPIVolumeFile: path fieldRef resourceFieldRef mode
KeyToPath: key path mode
HostPathVolumeSource: path type
ImageVolumeSource: reference pullPolicy
ProjectedVolumeSource: sources defaultMode
VolumeProjection: secret configMap downwardAPI serviceAccountToken
SecretProjection: items optional
ConfigMapProjection: items optional
DownwardAPIProjection: items
ServiceAccountTokenProjection: audience expirationSeconds path
`)

// allowedValues lists, for fields that are acted on with some of their values only, which those are. Where it is one, it is
// the field's default, which the type does not know. One that ends in a star is for all that begin so.
var allowedValues = map[string][]string{
	"NamespaceSpec.finalizers":                    {"kubernetes"},
	"ResourceQuotaSpec.scopes":                    podScopes,
	"ScopedResourceSelectorRequirement.scopeName": podScopes,
	"LimitRangeItem.type":                         {"Container", "Pod", "PersistentVolumeClaim"},
	"ServiceSpec.type":                            {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
	"ServicePort.protocol":                        {"TCP", "UDP"},
	"EndpointSlice.addressType":                   {"IPv4"},
	"EndpointPort.protocol":                       {"TCP", "UDP"},
	"ContainerPort.protocol":                      {"TCP", "UDP"},
	"MetricSpec.type":                             {"Resource", "ContainerResource"},
	"ResourceMetricSource.name":                   {"cpu", "memory"},
	"ContainerResourceMetricSource.name":          {"cpu", "memory"},
	"JobSpec.managedBy":                           {"kubernetes.io/job-controller"},
	"EmptyDirVolumeSource.medium":                 {"", "Memory", "HugePages", "HugePages-*"},
	"SeccompProfile.type":                         {"RuntimeDefault", "Localhost", "Unconfined"},
	"AppArmorProfile.type":                        {"RuntimeDefault", "Localhost", "Unconfined"},

	"PersistentVolumeSpec.persistentVolumeReclaimPolicy": {"Retain", "Delete"},
}

// refusedBecause says of fields that are not listed why they are not, where there is more to say.
var refusedBecause = map[string]string{
	"ObjectMeta.finalizers":                               "none would take it away again; what the cluster sets is left out",
	"IngressBackend.resource":                             "nothing serves a resource as a backend",
	"MetricSpec.pods":                                     "no adapter serves metrics of programs",
	"MetricSpec.object":                                   "no adapter serves metrics of programs",
	"CSIDriverSpec.nodeAllocatableUpdatePeriodSeconds":    "how many volumes a node takes is asked when its driver registers",
	"NodeSpec.podCIDR":                                    "the cluster gives nodes their addresses",
	"NodeSpec.podCIDRs":                                   "the cluster gives nodes their addresses",
	"NodeSpec.providerID":                                 "no cloud is asked about nodes",
	"Taint.timeAdded":                                     "the cluster notes when a taint came",
	"PersistentVolumeSpec.volumeAttributesClassName":      "VolumeAttributesClasses are of CSI drivers",
	"PersistentVolumeClaimSpec.volumeAttributesClassName": "VolumeAttributesClasses are of CSI drivers",
	"PersistentVolumeClaimSpec.dataSource":                "volumes are made empty",
	"PersistentVolumeClaimSpec.dataSourceRef":             "volumes are made empty",
	"MetricSpec.external":                                 "no adapter serves metrics of other systems",
	"LifecycleHandler.tcpSocket":                          "Kubernetes serves no such hook either: it fails when it is to run",
}

func whyRefused(field string) string {
	return cmp.Or(refusedBecause[field], "Lockstep would not act on it")
}

// unions are the types of which one field is stated: that it is there says something, even where it is empty.
var unions = map[string]bool{
	"VolumeSource": true, "PersistentVolumeSource": true, "VolumeProjection": true, "ProbeHandler": true, "LifecycleHandler": true,
	"EnvVarSource": true,
}

// podScopes are the scopes of a quota that a pod can be of.
var podScopes = []string{"Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity"}

// keys are those of a map that are acted on: some by their names, and others, in words, by what they are.
type keys struct {
	names []string
	other func(corev1.ResourceName) bool // nil: none
	words string
	why   string // the rest is refused; empty: Lockstep would not act on it
}

func (k keys) has(name string) bool {
	return slices.Contains(k.names, name) || k.other != nil && k.other(corev1.ResourceName(name))
}

// list names them, each name between quotes.
func (k keys) list(quote string) string {
	var out []string
	for _, name := range k.names {
		out = append(out, quote+name+quote)
	}
	if k.words != "" {
		out = append(out, k.words)
	}
	return strings.Join(out, ", ")
}

// refusal says why another key is refused.
func (k keys) refusal() string {
	return cmp.Or(k.why, "Lockstep would not act on it (supported: "+k.list("")+")")
}

func resources() []string { return []string{"cpu", "memory", "ephemeral-storage"} }

// fieldKeys says, for fields that are maps whose keys are not those of allowedKeys, which are acted on.
var fieldKeys = map[string]keys{
	"LimitRangeItem.max": bounded,
	"LimitRangeItem.min": bounded,
	"NodeStatus.capacity": {other: kinds.ExtendedResource, words: "extended resources",
		why: "the node's agent reports it; a manifest may state extended resources"},
	"PersistentVolumeSpec.capacity":       {names: []string{"storage"}},
	"VolumeResourceRequirements.limits":   {names: []string{"storage"}},
	"VolumeResourceRequirements.requests": {names: []string{"storage"}},
	"ResourceQuotaSpec.hard": {
		// Of names without a slash Kubernetes has a list, and those that are not in it are invalid.
		other: func(name corev1.ResourceName) bool {
			return !strings.Contains(string(name), "/") || admission.Counted(name)
		},
		words: "what is counted here", why: "it counts nothing that Lockstep serves",
	},
}

// bounded are what a LimitRange bounds: what containers have, and the size of claims.
var bounded = keys{names: append(resources(), "storage"), other: pages, words: pagesWords}

// allowedKeys says, by the name of a map type, which keys are acted on.
var allowedKeys = map[string]keys{
	"ResourceList": {names: resources(), other: pages, words: pagesWords},
}

// pages are huge pages and extended resources, and pagesWords is what they are.
func pages(name corev1.ResourceName) bool {
	return kinds.HugePages(name) || kinds.ExtendedResource(name)
}

const pagesWords = "huge pages, extended resources"

// fieldTable reads lines of "Type: field field"; a type may have several lines.
func fieldTable(text string) map[string]map[string]bool {
	table := map[string]map[string]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		owner, names, found := strings.Cut(line, ":")
		if !found {
			continue
		}
		if table[owner] == nil {
			table[owner] = map[string]bool{}
		}
		for _, name := range strings.Fields(names) {
			table[owner][name] = true
		}
	}
	return table
}
