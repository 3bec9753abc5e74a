{{/*
What a null in the values means. Helm drops a key that is null, its default with it; every template
begins with mindforge.init, which puts the chart's own keys back as values.yaml has them. Maps that go
to Kubernetes as they are (resources, security contexts) stay absent: that is how a cluster's own
defaults are asked for. tests/deploy/helm_test.py compares this copy with values.yaml.
*/}}
{{- define "mindforge.defaults" -}}
nameOverride: ''
fullnameOverride: ''
image:
  registry: ''
  pullPolicy: IfNotPresent
  pullSecrets: []
  coordinator:
    name: mindforge-coordinator
    tag: ''
    digest: ''
  worker:
    name: mindforge-worker
    tag: ''
    digest: ''
security:
  tls:
    enabled: true
    generate: true
    existingSecret: ''
    validityDays: 3650
  token:
    enabled: true
    generate: true
    existingSecret: ''
  insecure: false
storage:
  mountPath: /data
  existingClaim: ''
  size: 200Gi
  storageClassName: ''
  accessModes:
  - ReadWriteMany
coordinator:
  service:
    type: ClusterIP
    port: 7070
    annotations: {}
  persistence:
    size: 10Gi
    storageClassName: ''
  config: {}
  resources: {}
  nodeSelector: {}
  tolerations: []
  affinity: {}
  podAnnotations: {}
  priorityClassName: ''
worker:
  replicas: 2
  gpus: 0
  gpuResource: nvidia.com/gpu
  devices: ''
  threadsPerDevice: 0
  sharedMemory: 1Gi
  persistence:
    size: 10Gi
    storageClassName: ''
  config: {}
  terminationGracePeriodSeconds: 180
  resources: {}
  nodeSelector: {}
  tolerations: []
  affinity: {}
  podAnnotations: {}
  priorityClassName: ''
inference:
  replicas: 1
  gpus: 0
  gpuResource: nvidia.com/gpu
  dtype: bfloat16
  slots: 32
  maxContext: 0
  queueCapacity: 256
  config: {}
  terminationGracePeriodSeconds: 120
  resources: {}
  nodeSelector: {}
  tolerations: []
  affinity: {}
  podAnnotations: {}
  priorityClassName: ''
serviceMonitor:
  enabled: false
  interval: 15s
  labels: {}
networkPolicy:
  enabled: false
  clients: []
  scrapers: []
podDisruptionBudget:
  enabled: true
  maxUnavailable: 1
podSecurityContext: {}
containerSecurityContext: {}
{{- end -}}

{{/* Takes nulls out of a map, at every depth; call with the map. */}}
{{- define "mindforge.withoutNulls" -}}
{{- $map := . -}}
{{- range $key := keys $map -}}
{{- $value := get $map $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $map $key -}}
{{- else if kindIs "map" $value -}}
{{- include "mindforge.withoutNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Sets what `into` lacks; call with (dict "into" $map "from" $defaults). */}}
{{- define "mindforge.fill" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if not (hasKey $into $key) -}}
{{- $_ := set $into $key (deepCopy $value) -}}
{{- else if kindIs "map" $value -}}
{{- include "mindforge.fill" (dict "into" (get $into $key) "from" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mindforge.init" -}}
{{- include "mindforge.withoutNulls" .Values -}}
{{- include "mindforge.fill" (dict "into" .Values "from" (fromYaml (include "mindforge.defaults" .))) -}}
{{- end -}}
