{{/* Apply the values to what starts Pods. */}}

{{- define "warmhook.image" -}}
{{- $image := .Values.image }}
{{- $image.repository }}
{{- if or $image.tag (not $image.digest) }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Changes a Deployment, DaemonSet or Service of Knative. Takes a dict of `root` ($) and `object`. */}}
{{- define "warmhook.configurePods" -}}
{{- $values := .root.Values }}{{ $object := .object }}{{ $name := .object.metadata.name }}
{{- $template := $object.spec.template }}{{ $pod := $template.spec }}{{ $container := first $pod.containers }}
{{- $serverless := hasPrefix "serving.knative.dev/" $object.apiVersion }}
{{- $_ := set $container "image" (include "warmhook.image" .root) }}
{{- with $values.image.pullPolicy }}
  {{- $_ := set $container "imagePullPolicy" (default . $container.imagePullPolicy) }}
{{- end }}
{{- with $values.image.pullSecrets }}
  {{- $secrets := list }}
  {{- range . }}{{ $secrets = append $secrets (dict "name" .) }}{{ end }}
  {{- $_ := set $pod "imagePullSecrets" $secrets }}
{{- end }}
{{- include "warmhook.configureVolumes" . }}
{{- if eq $name "warmhook-agent" }}
  {{- include "warmhook.configureAgent" . }}
{{- end }}
{{- if and (eq $name "warmhook-handlers") (not $values.admission.enabled) (not $serverless) }}
  {{- include "warmhook.setEnv" (dict "container" $container "name" "WARMHOOK_SERVE" "value" "events,metrics") }}
  {{- include "warmhook.setEnv" (dict "container" $container "name" "WARMHOOK_TLS_PORT" "value" "0") }}
  {{- include "warmhook.removePort" (dict "container" $container "name" "admission") }}
{{- end }}
{{- $sections := dict "warmhook-web" "web" "warmhook-receiver" "web" "warmhook-handlers" "handlers" "warmhook-agent" "agent" "warmhook-ui" "ui" "warmhook-watch" "knative.watch" "warmhook-admission" "knative.admission" }}
{{- with get $sections $name }}
  {{- $section := $values }}
  {{- range splitList "." . }}{{ $section = index $section . }}{{ end }}
  {{- if $serverless }}
    {{- range list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
      {{- if get $section . }}
        {{- fail (printf "%s of the Knative Service %s: Knative allows it only behind a feature flag; leave it empty" . $name) }}
      {{- end }}
    {{- end }}
    {{- $scale := index $values.knative (trimPrefix "warmhook-" $name) }}
    {{- $_ := set $template.metadata.annotations "autoscaling.knative.dev/min-scale" (toJson $scale.minScale) }}
    {{- $_ := set $template.metadata.annotations "autoscaling.knative.dev/max-scale" (toJson $scale.maxScale) }}
  {{- else if hasKey $section "replicas" }}
    {{- $_ := set $object.spec "replicas" $section.replicas }}
  {{- end }}
  {{- include "warmhook.configureSection" (dict "object" $object "section" $section "path" .) }}
{{- end }}
{{- end }}

{{/* What every section of a part has: `path` is its name in the values. */}}
{{- define "warmhook.configureSection" -}}
{{- $section := .section }}{{ $path := .path }}
{{- $template := .object.spec.template }}{{ $pod := $template.spec }}{{ $container := first $pod.containers }}
{{- range $variable, $value := $section.env }}
  {{- if eq $variable "PORT" }}
    {{- fail (printf "%s.env.PORT: Services and probes know the port 8080; remove it" $path) }}
  {{- end }}
  {{- range $container.env }}
    {{- if and (eq .name $variable) (ne $variable "WARMHOOK_LOG") }}
      {{- fail (printf "%s.env.%s: the chart sets this variable itself; remove it" $path $variable) }}
    {{- end }}
  {{- end }}
  {{- include "warmhook.setEnv" (dict "container" $container "name" $variable "value" $value) }}
{{- end }}
{{- $_ := set $container "resources" $section.resources }}
{{- with $section.podAnnotations }}
  {{- $_ := set $template.metadata "annotations" (merge (deepCopy .) (default dict $template.metadata.annotations)) }}
{{- end }}
{{- with $section.podLabels }}
  {{- $_ := set $template.metadata "labels" (merge (deepCopy .) $template.metadata.labels) }}
{{- end }}
{{- range list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
  {{- $_ := unset $pod . }}
  {{- if get $section . }}{{ $_ := set $pod . (get $section .) }}{{ end }}
{{- end }}
{{- end }}

{{/* Names the Secrets, and starts new Pods if a configuration has changed. */}}
{{- define "warmhook.configureVolumes" -}}
{{- $root := .root }}{{ $template := .object.spec.template }}
{{- range $template.spec.volumes }}
  {{- if and .secret (eq .secret.secretName "warmhook-senders") }}{{ $_ := set .secret "secretName" $root.Values.secrets.senders }}{{ end }}
  {{- if and .secret (eq .secret.secretName "warmhook-registries") }}{{ $_ := set .secret "secretName" $root.Values.secrets.registries }}{{ end }}
  {{- if .configMap }}
    {{- $sum := include (printf "%s.yaml" .configMap.name) $root | sha256sum }}
    {{- $_ := set $template.metadata "annotations" (merge (dict "checksum/config" $sum) (default dict $template.metadata.annotations)) }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Socket, folders and ports of the agent. */}}
{{- define "warmhook.configureAgent" -}}
{{- $agent := .root.Values.agent }}{{ $pod := .object.spec.template.spec }}{{ $container := first $pod.containers }}
{{- $_ := set .object.spec.updateStrategy.rollingUpdate "maxUnavailable" $agent.maxUnavailable }}
{{- if eq (int $agent.metricsPort) (int $agent.peerPort) }}
  {{- fail (printf "agent.peerPort and agent.metricsPort are both %d: give each a port of its own" (int $agent.peerPort)) }}
{{- end }}
{{- $folders := dict "runtime" (dir (trimPrefix "unix://" $agent.runtimeEndpoint)) "state" $agent.stateDir }}
{{- range $pod.volumes }}
  {{- if .hostPath }}{{ $_ := set .hostPath "path" (index $folders .name) }}{{ end }}
{{- end }}
{{- range $container.volumeMounts }}
  {{- if hasKey $folders .name }}{{ $_ := set . "mountPath" (index $folders .name) }}{{ end }}
{{- end }}
{{- $_ := set $pod "volumes" (concat $pod.volumes $agent.volumes) }}
{{- $_ := set $container "volumeMounts" (concat $container.volumeMounts $agent.volumeMounts) }}
{{- $ports := dict "metrics" (int $agent.metricsPort) "peers" (int $agent.peerPort) }}
{{- range $container.ports }}
  {{- $_ := set . "containerPort" (index $ports .name) }}
  {{- $_ := set . "hostPort" (index $ports .name) }}
{{- end }}
{{- if not $agent.peerPort }}
  {{- include "warmhook.removePort" (dict "container" $container "name" "peers") }}
{{- end }}
{{- with $agent.seLinuxOptions }}{{ $_ := set $pod.securityContext "seLinuxOptions" . }}{{ end }}
{{- $settings := dict "CONTAINER_RUNTIME_ENDPOINT" $agent.runtimeEndpoint "WARMHOOK_STATE_DIR" $agent.stateDir "WARMHOOK_METRICS_PORT" $agent.metricsPort "WARMHOOK_PEER_PORT" $agent.peerPort }}
{{- with $agent.parallelPulls }}{{ $_ := set $settings "WARMHOOK_PARALLEL_PULLS" . }}{{ end }}
{{- range $name, $value := $settings }}
  {{- include "warmhook.setEnv" (dict "container" $container "name" $name "value" $value) }}
{{- end }}
{{- end }}

{{/* Sets one variable of `container`: a text, number or Boolean, or where it comes from. */}}
{{- define "warmhook.setEnv" -}}
{{- $name := .name }}{{ $entry := dict "name" .name }}{{ $isNew := true }}
{{- if kindIs "map" .value }}{{ $_ := set $entry "valueFrom" .value }}
{{- else }}{{ $_ := set $entry "value" (ternary .value (toJson .value) (kindIs "string" .value)) }}{{ end }}
{{- range .container.env }}
  {{- if eq .name $name }}
    {{- $isNew = false }}{{ $_ := unset . "value" }}{{ $_ := unset . "valueFrom" }}{{ $_ := mergeOverwrite . $entry }}
  {{- end }}
{{- end }}
{{- if $isNew }}{{ $_ := set .container "env" (append .container.env $entry) }}{{ end }}
{{- end }}

{{- define "warmhook.removePort" -}}
{{- $name := .name }}{{ $ports := list }}
{{- range .container.ports }}{{ if ne .name $name }}{{ $ports = append $ports . }}{{ end }}{{ end }}
{{- $_ := set .container "ports" $ports }}
{{- end }}
