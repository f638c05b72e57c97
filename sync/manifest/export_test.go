package manifest

import (
	"testing"

	"sigs.k8s.io/yaml"

	"lockstep/kinds"
)

// What a cluster prints of an object can be committed as it is: every default is stated in it, a status and metadata
// that only a server sets.
func TestExportedObjectsAreAccepted(t *testing.T) {
	seen := map[string]bool{}
	for _, text := range []string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart}}",
		"{apiVersion: v1, kind: LimitRange, metadata: {name: cart}, spec: {limits: [{type: Container, max: {cpu: 1}}]}}",
		"{apiVersion: v1, kind: ResourceQuota, metadata: {name: cart}, spec: {hard: {pods: 10, limits.cpu: 2, count/jobs.batch: 4}, " +
			"scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [gold]}]}}}",
		"{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sandboxed}, handler: runsc, " +
			"overhead: {podFixed: {memory: 120Mi}}, scheduling: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}]}}",
		"{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: nginx, annotations: " +
			"{ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: k8s.io/ingress-nginx, " +
			"parameters: {apiGroup: example.com, kind: Parameters, name: nginx, namespace: shop, scope: Namespace}}}",
		"{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {ingressClassName: nginx, " +
			"defaultBackend: {service: {name: web, port: {number: 80}}}, tls: [{hosts: [shop.example.org], secretName: cert}], " +
			"rules: [{host: shop.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, " +
			"port: {name: http}}}}]}}]}}",
		"{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: disks, annotations: " +
			"{storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: kubernetes.io/no-provisioner, " +
			"volumeBindingMode: WaitForFirstConsumer, reclaimPolicy: Retain, allowVolumeExpansion: true}",
		"{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: csi.example.com}, spec: {attachRequired: true, " +
			"podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral], storageCapacity: true, fsGroupPolicy: File, " +
			"tokenRequests: [{audience: vault, expirationSeconds: 3600}], requiresRepublish: true, " +
			"serviceAccountTokenInSecrets: true}}",
		"{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: disks-a}, storageClassName: disks, " +
			"nodeTopology: {matchLabels: {zone: a}}, capacity: 10Gi, maximumVolumeSize: 2Gi}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: disk-1}, spec: {capacity: {storage: 1Gi}, " +
			"accessModes: [ReadWriteOnce], storageClassName: disks, volumeMode: Filesystem, local: {path: /srv/disk-1}, " +
			"claimRef: {namespace: shop, name: data}, persistentVolumeReclaimPolicy: Retain, nodeAffinity: {required: " +
			"{nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]}}}}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: share}, spec: {capacity: {storage: 1Gi}, " +
			"accessModes: [ReadWriteMany], mountOptions: [hard], nfs: {server: nas.example, path: /srv, readOnly: true}}}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: remote}, spec: {capacity: {storage: 1Gi}, " +
			"accessModes: [ReadWriteOnce], csi: {driver: csi.example.com, volumeHandle: vol-1, fsType: ext4, readOnly: true, " +
			"volumeAttributes: {a: b}, nodeStageSecretRef: {name: key, namespace: shop}}}}",
		"{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: remote}, provisioner: csi.example.com, " +
			"parameters: {a: b}, mountOptions: [noatime], allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}]}",
		"{apiVersion: v1, kind: PersistentVolume, metadata: {name: folder}, spec: {capacity: {storage: 1Gi}, " +
			"accessModes: [ReadWriteOnce], hostPath: {path: /srv/folder, type: DirectoryOrCreate}}}",
		"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], " +
			"storageClassName: disks, volumeName: disk-1, volumeMode: Filesystem, selector: {matchLabels: {a: b}}, " +
			"resources: {requests: {storage: 1Gi}, limits: {storage: 2Gi}}}}",
		"{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: gold}, value: 1000}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: 'system:cart'}, " +
			"aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}, rules: []}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: cart}, " +
			"rules: [{verbs: [get], nonResourceURLs: [/metrics]}]}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: cart}, " +
			"rules: [{verbs: [get], apiGroups: [''], resources: [secrets], resourceNames: [cart]}]}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: cart}, " +
			"subjects: [{kind: ServiceAccount, name: cart, namespace: shop}], roleRef: {kind: ClusterRole, name: view}}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: cart}, " +
			"subjects: [{kind: User, name: ada}, {kind: Group, name: staff}], roleRef: {kind: Role, name: cart}}",
		"{apiVersion: v1, kind: Secret, metadata: {name: cart}, stringData: {a: b}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: cart}, data: {a: b}, binaryData: {c: AAAA}}",
		"{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {type: NodePort, selector: {a: b}, ports: [{port: 80}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: headless}, " +
			"spec: {clusterIP: None, sessionAffinity: ClientIP, ports: [{port: 80}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: cart.example}}",
		"{apiVersion: v1, kind: Pod, metadata: {name: cart}, spec: " + fullPodSpec + "}",
		"{apiVersion: v1, kind: PodTemplate, metadata: {name: cart}, template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}",
		"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: cart}, " +
			"spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}}",
		"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: cart}, " +
			"spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}}",
		"{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {tier: gold}, annotations: {lockstep.dev/drain: 'true'}}, " +
			"spec: {unschedulable: true, taints: [{key: mine, value: x, effect: NoExecute}]}}",
		"{apiVersion: v1, kind: ReplicationController, metadata: {name: cart}, " +
			"spec: {template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}}",
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: cart}, " +
			"spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}}",
		"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: cart}, spec: {serviceName: cart, ordinals: {start: 2}, " +
			"persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}, " +
			"volumeClaimTemplates: [{metadata: {name: data, labels: {a: b}}, " +
			"spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], " +
			"updateStrategy: {rollingUpdate: {partition: 1, maxUnavailable: 50%}}, " +
			"selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: " + fullPodSpec + "}}}",
		"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: cart}, spec: {minReplicas: 2, maxReplicas: 9, " +
			"scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: cart}, metrics: [" +
			"{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}, " +
			"{type: ContainerResource, containerResource: {name: memory, container: main, " +
			"target: {type: AverageValue, averageValue: 64Mi}}}], " +
			"behavior: {scaleUp: {tolerance: 50m, stabilizationWindowSeconds: 30, selectPolicy: Min, " +
			"policies: [{type: Pods, value: 2, periodSeconds: 30}]}, scaleDown: {stabilizationWindowSeconds: 60}}}}",
		"{apiVersion: batch/v1, kind: CronJob, metadata: {name: cart}, spec: {schedule: '30 6-16/4 * * 1-5', timeZone: Europe/Berlin, " +
			"startingDeadlineSeconds: 60, concurrencyPolicy: Replace, suspend: true, successfulJobsHistoryLimit: 0, " +
			"failedJobsHistoryLimit: 5, jobTemplate: {metadata: {labels: {a: b}}, spec: {backoffLimit: 1, " +
			"template: {spec: {restartPolicy: Never, containers: [{name: main, image: a}]}}}}}}",
		"{apiVersion: batch/v1, kind: Job, metadata: {name: cart}, spec: {completions: 4, parallelism: 2, completionMode: Indexed, " +
			"suspend: true, backoffLimitPerIndex: 1, maxFailedIndexes: 2, activeDeadlineSeconds: 9, ttlSecondsAfterFinished: 0, " +
			"podReplacementPolicy: Failed, managedBy: kubernetes.io/job-controller, podFailurePolicy: {rules: [" +
			"{action: FailIndex, onExitCodes: {containerName: main, operator: In, values: [3]}}, " +
			"{action: Ignore, onPodConditions: [{type: DisruptionTarget, status: 'True'}]}]}, " +
			"successPolicy: {rules: [{succeededIndexes: 0-2, succeededCount: 2}]}, " +
			"template: {spec: {restartPolicy: Never, containers: [{name: main, image: a}]}}}}",
		"{apiVersion: batch/v1, kind: Job, metadata: {name: cart}, spec: {backoffLimit: 3, manualSelector: true, " +
			"selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: OnFailure, " +
			"containers: [{name: main, image: a}]}}}}",
		"{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: cart}, spec: {maxUnavailable: 25%, " +
			"selector: {matchLabels: {a: b}}, unhealthyPodEvictionPolicy: AlwaysAllow}}",
		"{apiVersion: v1, kind: Endpoints, metadata: {name: cart}, subsets: [{addresses: [{ip: 192.0.2.7, hostname: a, nodeName: n1}], " +
			"notReadyAddresses: [{ip: 192.0.2.8}], ports: [{name: sql, port: 80, appProtocol: http}]}]}",
		"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: cart}, addressType: IPv4, ports: [{port: 80}], " +
			"endpoints: [{addresses: [10.42.0.2]}]}",
	} {
		set, errs := Read(t.Context(), []File{fileOf("a.yaml", []byte(text))}, Options{})
		if errs != nil {
			t.Errorf("%s:\n%v", text, errs)
			continue
		}
		o := set.Objects[0].Object.DeepCopyObject().(kinds.Object)
		seen[kinds.Of(o).Kind] = true
		o.SetUID("0-1")
		o.SetResourceVersion("7")
		o.SetGeneration(3)
		exported, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		again, errs := Read(t.Context(), []File{fileOf("a.yaml", exported)}, Options{})
		if errs != nil {
			t.Errorf("exported:\n%s\n%v", exported, errs)
			continue
		}
		if again.Objects[0].Object.GetUID() != "" {
			t.Errorf("%v: the uid was kept", again.Objects[0].Key)
		}
	}
	for _, k := range kinds.All {
		if k.Declarable && !seen[k.Kind] {
			t.Errorf("no %s among the examples", k.Kind)
		}
	}
}

// fullPodSpec states something of everything that a pod may have.
const fullPodSpec = `{
  serviceAccountName: cart, terminationGracePeriodSeconds: 5, hostname: cart, subdomain: headless, shareProcessNamespace: true,
  nodeSelector: {disk: ssd}, tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}], imagePullSecrets: [{name: pull}],
  affinity: {nodeAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]},
    preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: zone, operator: Exists}]}}]}},
  securityContext: {runAsUser: 1000, fsGroup: 1000, supplementalGroups: [5], seccompProfile: {type: RuntimeDefault}},
  dnsPolicy: None, dnsConfig: {nameservers: [10.43.0.10], options: [{name: ndots, value: "2"}]},
  hostAliases: [{ip: 10.0.0.1, hostnames: [db]}],
  initContainers: [{name: init, image: a, command: [sh]}, {name: side, image: a, restartPolicy: Always}],
  containers: [{name: main, image: a, args: [x], workingDir: /tmp, imagePullPolicy: Never, ports: [{containerPort: 80, hostPort: 8080}],
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: B, valueFrom: {resourceFieldRef: {resource: limits.cpu}}},
          {name: C, valueFrom: {configMapKeyRef: {name: c, key: k}}},
          {name: D, valueFrom: {secretKeyRef: {name: c, key: k, optional: true}}}],
    envFrom: [{configMapRef: {name: c}}, {prefix: P_, secretRef: {name: c}}],
    resources: {requests: {cpu: 100m, memory: 64Mi, ephemeral-storage: 1Gi}, limits: {memory: 128Mi}},
    livenessProbe: {httpGet: {path: /, port: 80, httpHeaders: [{name: A, value: b}]}},
    readinessProbe: {tcpSocket: {port: 80}}, startupProbe: {exec: {command: [x]}},
    lifecycle: {postStart: {exec: {command: [x]}}, preStop: {sleep: {seconds: 2}}},
    securityContext: {privileged: false, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true,
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}},
    restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [3]}}],
    volumeMounts: [{name: e, mountPath: /e, subPath: x}, {name: p, mountPath: /p, readOnly: true}]}],
  volumes: [{name: e, emptyDir: {medium: Memory, sizeLimit: 1Mi}}, {name: c, configMap: {name: c, items: [{key: k, path: p, mode: 0600}]}},
    {name: s, secret: {secretName: s, optional: true}}, {name: h, hostPath: {path: /srv, type: Directory}},
    {name: d, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}},
    {name: p, projected: {sources: [{secret: {name: s}}, {configMap: {name: c}},
      {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.name}}]}}]}},
    {name: v, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce],
      resources: {requests: {storage: 1Gi}}}}}},
    {name: i, csi: {driver: csi.example.com, readOnly: true, fsType: ext4, volumeAttributes: {a: b}, nodePublishSecretRef: {name: s}}}]
}`
