{{- define "mindforge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of everything; call with (dict "root" $ "component" "worker"). */}}
{{- define "mindforge.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: mindforge
{{ include "mindforge.selector" . }}
{{- end -}}

{{- define "mindforge.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- if .component }}
app.kubernetes.io/component: {{ .component }}
{{- end }}
{{- end -}}

{{/* An image; call with (dict "root" $ "image" .Values.image.worker). */}}
{{- define "mindforge.image" -}}
{{- $name := .image.name -}}
{{- if .root.Values.image.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) .image.name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "mindforge.tlsSecret" -}}
{{- default (printf "%s-tls" (include "mindforge.fullname" .)) .Values.security.tls.existingSecret -}}
{{- end -}}

{{- define "mindforge.tokenSecret" -}}
{{- default (printf "%s-token" (include "mindforge.fullname" .)) .Values.security.token.existingSecret -}}
{{- end -}}

{{- define "mindforge.dataClaim" -}}
{{- default (printf "%s-data" (include "mindforge.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{- define "mindforge.coordinatorAddress" -}}
{{- printf "%s-coordinator.%s.svc:%d" (include "mindforge.fullname" .) .Release.Namespace (int .Values.coordinator.service.port) -}}
{{- end -}}

{{/* What the programs' configuration files say about TLS and the token. */}}
{{- define "mindforge.securityConfig" -}}
{{- if .Values.security.tls.enabled }}
tls:
  cert_file: /etc/mindforge/tls/tls.crt
  key_file: /etc/mindforge/tls/tls.key
  ca_file: /etc/mindforge/tls/ca.crt
{{- end }}
{{- if .Values.security.token.enabled }}
token_file: /etc/mindforge/token/token
{{- end }}
{{- end -}}

{{- define "mindforge.securityMounts" -}}
{{- if .Values.security.tls.enabled }}
- {name: tls, mountPath: /etc/mindforge/tls, readOnly: true}
{{- end }}
{{- if .Values.security.token.enabled }}
- {name: token, mountPath: /etc/mindforge/token, readOnly: true}
{{- end }}
{{- end -}}

{{- define "mindforge.securityVolumes" -}}
{{- if .Values.security.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "mindforge.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- if .Values.security.token.enabled }}
- name: token
  secret: {secretName: {{ include "mindforge.tokenSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Kubernetes' own gRPC probe speaks no TLS: with TLS the port has to do. A server opens it once its
     store or device is ready. Call with (dict "root" $ "port" 7070 "service" "mindforge.v1.JobService"). */}}
{{- define "mindforge.grpcProbe" -}}
{{- if .root.Values.security.tls.enabled -}}
tcpSocket: {port: {{ .port }}}
{{- else -}}
grpc:
  port: {{ .port }}
  {{- if .service }}
  service: {{ .service }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The part of a pod that all programs share; call with (dict "root" $ "component" .Values.worker). */}}
{{- define "mindforge.podCommon" -}}
automountServiceAccountToken: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Resources with the component's GPUs. */}}
{{- define "mindforge.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpus) 0 -}}
{{- $limits := merge (dict .gpuResource (int .gpus)) (default dict $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What cannot work is refused at render, with the remedy. */}}
{{- define "mindforge.check" -}}
{{- $security := .Values.security -}}
{{- if and (not $security.insecure) (not (and $security.tls.enabled $security.token.enabled)) -}}
{{- fail "The servers listen beyond loopback: enable security.tls and security.token, or set security.insecure=true knowing that every pod that reaches them may do everything." -}}
{{- end -}}
{{- if and $security.tls.enabled (not $security.tls.generate) (not $security.tls.existingSecret) -}}
{{- fail "security.tls: set existingSecret (tls.crt, tls.key, ca.crt), or generate=true." -}}
{{- end -}}
{{- if and $security.token.enabled (not $security.token.generate) (not $security.token.existingSecret) -}}
{{- fail "security.token: set existingSecret (key `token`), or generate=true." -}}
{{- end -}}
{{- end -}}

{{/* A program's configuration file; keys of *.config win. Call with (dict "root" $ "program" "worker"). */}}
{{- define "mindforge.config" -}}
{{- with .root -}}
{{- $security := fromYaml (include "mindforge.securityConfig" .) -}}
{{- $server := ternary (dict "insecure" true) dict .Values.security.insecure -}}
{{- $coordinator := mergeOverwrite (dict
      "listen" "0.0.0.0:7070"
      "data_dir" "/var/lib/mindforge"
      "metrics" "0.0.0.0:9464") $server $security .Values.coordinator.config -}}
{{- $worker := mergeOverwrite (dict
      "coordinator" (include "mindforge.coordinatorAddress" .)
      "data_dir" "/var/lib/mindforge"
      "devices" (default (ternary "auto" "cpu:1" (gt (int .Values.worker.gpus) 0)) .Values.worker.devices)
      "drain_timeout" (printf "%ds" (max 1 (sub (int .Values.worker.terminationGracePeriodSeconds) 30)))
      "metrics" "0.0.0.0:9465") $security -}}
{{- if gt (int .Values.worker.threadsPerDevice) 0 -}}
{{- $_ := set $worker "threads_per_device" (int .Values.worker.threadsPerDevice) -}}
{{- end -}}
{{- $worker = mergeOverwrite $worker .Values.worker.config -}}
{{- $inference := mergeOverwrite (dict
      "coordinator" (include "mindforge.coordinatorAddress" .)
      "listen" "0.0.0.0:7071"
      "data_dir" "/var/lib/mindforge"
      "device" (ternary "cuda:0" "cpu" (gt (int .Values.inference.gpus) 0))
      "dtype" .Values.inference.dtype
      "slots" (int .Values.inference.slots)
      "queue_capacity" (int .Values.inference.queueCapacity)
      "metrics" "0.0.0.0:9466") $server $security -}}
{{- if gt (int .Values.inference.maxContext) 0 -}}
{{- $_ := set $inference "max_context" (int .Values.inference.maxContext) -}}
{{- end -}}
{{- $inference = mergeOverwrite $inference .Values.inference.config -}}
{{- toYaml (get (dict "coordinator" $coordinator "worker" $worker "inference" $inference) $.program) -}}
{{- end -}}
{{- end -}}
