package reading

import "fmt"

// objects are the source's files: cart as the table of rights has it, with replicas of its Deployment, pods that
// talk, and one of each kind that is served beside these.
func objects(replicas int) map[string]string {
	files := map[string]string{"cart.yaml": fmt.Sprintf(cart, replicas), "talk.yaml": talk, "others.yaml": others}
	files["pods.yaml"] = fmt.Sprintf(pod, "cart-1-a", one) + fmt.Sprintf(pod, "cart-1-b", other)
	return files
}

const cart = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop, labels: {tier: back}}
spec:
  replicas: %d
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: lab.example/talker:1
          args: [-name, cart, -lines, "5", -listen, ":8080"]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: sums, namespace: shop}
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: "lab.example/talker:1"}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: sum, namespace: shop}
spec:
  suspend: true
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: "lab.example/talker:1"}]}}
---
apiVersion: v1
kind: PodTemplate
metadata: {name: cart, namespace: shop}
template:
  metadata: {labels: {app: cart}}
  spec: {containers: [{name: main, image: "lab.example/talker:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: http}]
`

const pod = `---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s, namespace: shop}
stringData: {password: canary-7f3a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s, namespace: shop}
data: {k: v}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop, labels: {app: bare}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: lab.example/talker:1
      envFrom: [{secretRef: {name: %[1]s}}]
      volumeMounts: [{name: config, mountPath: /config}]
  volumes: [{name: config, configMap: {name: %[1]s}}]
`

const talk = `apiVersion: v1
kind: Namespace
metadata: {name: talk}
---
apiVersion: v1
kind: Pod
metadata: {name: pair, namespace: talk, labels: {app: pair}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
    - name: first
      image: lab.example/talker:1
      args: [-name, first, -lines, "1", -every, 1ms, -exit, "0"]
  containers:
    - name: one
      image: lab.example/talker:1
      args: [-name, one, -every, 100ms]
    - name: two
      image: lab.example/talker:1
      args: [-name, two, -lines, "4", -every, 1ms]
---
apiVersion: v1
kind: Pod
metadata: {name: crash, namespace: talk, labels: {app: crash}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: lab.example/talker:1
      args: [-name, crash, -lines, "3", -every, 1ms, -exit, "3"]
`

const others = `apiVersion: v1
kind: ResourceQuota
metadata: {name: idle, namespace: talk}
spec: {hard: {pods: "20", services: "20", limits.ephemeral-storage: 1Ti}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: lab-sandboxed}
handler: runsc
overhead: {podFixed: {memory: 120Mi}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: lab-disks}
provisioner: kubernetes.io/no-provisioner
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: csi.lab.example}
spec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{audience: vault}]}
---
apiVersion: storage.k8s.io/v1
kind: CSIStorageCapacity
metadata: {name: lab-disks-a, namespace: talk}
storageClassName: lab-disks
capacity: 10Gi
nodeTopology: {matchLabels: {lab.example/zone: a}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: lab-disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: lab-disks
  claimRef: {namespace: elsewhere, name: data}
  hostPath: {path: /srv/lab-disk}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: idle, namespace: talk}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: lab-none
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: idle, namespace: talk}
spec: {limits: [{type: Pod}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "lab:reader"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}, {nonResourceURLs: [/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: talk}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [one], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "lab:readers"}
subjects: [{kind: Group, name: "lab:readers"}, {kind: ServiceAccount, name: default, namespace: talk}]
roleRef: {kind: ClusterRole, name: "lab:reader"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: talk}
subjects: [{kind: User, name: ada}]
roleRef: {kind: Role, name: reader}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: gold}
value: 1000
description: what must run
---
apiVersion: v1
kind: ReplicationController
metadata: {name: idle, namespace: talk}
spec:
  replicas: 0
  selector: {app: idle}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: main, image: "lab.example/talker:1"}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: idle, namespace: talk}
spec:
  selector: {matchLabels: {app: idle-daemon}}
  template:
    metadata: {labels: {app: idle-daemon}}
    spec:
      nodeSelector: {lab.example/idle: "true"}
      containers: [{name: main, image: "lab.example/talker:1"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: idle, namespace: talk}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: idle}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: idle, namespace: talk}
spec:
  ingressClassName: lab-none # which nobody serves
  tls: [{hosts: [idle.example.org], secretName: idle}]
  rules: [{host: idle.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: idle, port: {number: 80}}}}]}}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: idle, namespace: talk}
subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{name: sql, port: 5432}]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: idle, namespace: talk}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: idle}, maxReplicas: 3}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: idle, namespace: talk}
spec:
  replicas: 0
  serviceName: idle
  selector: {matchLabels: {app: idle-set}}
  template:
    metadata: {labels: {app: idle-set}}
    spec: {containers: [{name: main, image: "lab.example/talker:1"}]}
`
