{{/* Decide which objects of the manifests are installed, and apply the values to them. */}}

{{/* "true" if the object belongs to this installation. Takes a dict of `root` ($) and `object`. */}}
{{- define "warmhook.isInstalled" -}}
{{- $values := .root.Values }}{{ $kind := .object.kind }}{{ $name := .object.metadata.name }}{{ $is := true }}
{{- if eq $kind "Namespace" }}
  {{- $is = and $values.namespaces.create (ne $name .root.Release.Namespace) }}
{{- else if eq $kind "CustomResourceDefinition" }}
  {{- $is = $values.crds.install }}
{{- else if eq $kind "NetworkPolicy" }}
  {{- $is = $values.networkPolicy.enabled }}
{{- else if has $kind (list "FlowSchema" "PriorityLevelConfiguration") }}
  {{- $is = $values.flowControl.enabled }}
{{- else if eq $kind "PodMonitor" }}
  {{- $is = $values.monitoring.podMonitor.enabled }}
{{- else if eq $kind "PrometheusRule" }}
  {{- $is = $values.monitoring.prometheusRule.enabled }}
{{- else if eq $kind "ResourceQuota" }}
  {{- $is = hasPrefix "system-" $values.agent.priorityClassName }}
{{- end }}
{{- $admits := or (eq $kind "MutatingWebhookConfiguration") (has $name (list "warmhook-admission" "warmhook-admissions")) }}
{{- if and $is (or $values.admission.enabled (not $admits)) }}true{{ end }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "warmhook.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Changes the object as the values say. Takes a dict of `root` ($) and `object`. */}}
{{- define "warmhook.configure" -}}
{{- $values := .root.Values }}{{ $object := .object }}{{ $kind := .object.kind }}{{ $name := .object.metadata.name }}
{{- $_ := set $object.metadata "labels" (merge (fromYaml (include "warmhook.labels" .root)) (default dict $object.metadata.labels)) }}
{{- if has $kind (list "Namespace" "CustomResourceDefinition") }}
  {{- $_ := set $object.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}
{{- else if eq $kind "ClusterRole" }}
  {{- range $key, $_ := $object.metadata.labels }}
    {{- if and (hasPrefix "rbac.authorization.k8s.io/aggregate-to-" $key) (not $values.rbac.aggregate) }}
      {{- $_ := unset $object.metadata.labels $key }}
    {{- end }}
  {{- end }}
{{- else if eq $kind "MutatingWebhookConfiguration" }}
  {{- $selector := (first $object.webhooks).namespaceSelector }}
  {{- $_ := set (first $selector.matchExpressions) "values" (concat $values.admission.excludedNamespaces (list "warmhook-system" "warmhook-agents") | uniq) }}
  {{- if $values.admission.certManager.enabled }}
    {{- $_ := set $object.metadata "annotations" (dict "cert-manager.io/inject-ca-from" "warmhook-system/warmhook-admission") }}
  {{- end }}
{{- else if and (eq $kind "NetworkPolicy") (eq $name "warmhook-webhooks") $values.networkPolicy.webhooksFrom }}
  {{- $_ := set (first $object.spec.ingress) "from" $values.networkPolicy.webhooksFrom }}
{{- else if and (eq $kind "NetworkPolicy") (eq $name "warmhook-handlers") }}
  {{- $from := first (first $object.spec.ingress).from }}
  {{- $_ := set (first $from.namespaceSelector.matchExpressions) "values" $values.knative.gatewayNamespaces }}
{{- else if eq $kind "ResourceQuota" }}
  {{- $_ := set (first $object.spec.scopeSelector.matchExpressions) "values" (list $values.agent.priorityClassName) }}
{{- else if has $kind (list "PodMonitor" "PrometheusRule") }}
  {{- include "warmhook.configureMonitoring" . }}
{{- else if dig "spec" "template" "spec" "containers" false $object }}
  {{- include "warmhook.configurePods" . }}
{{- end }}
{{- end }}

{{/* Labels and interval of a PodMonitor or PrometheusRule. What a ServiceMonitor scrapes, no PodMonitor does. */}}
{{- define "warmhook.configureMonitoring" -}}
{{- $monitoring := .root.Values.monitoring }}{{ $object := .object }}
{{- $_ := set $object.metadata "labels" (merge (deepCopy $monitoring.labels) $object.metadata.labels) }}
{{- if eq $object.kind "PodMonitor" }}
  {{- range $object.spec.podMetricsEndpoints }}
    {{- if $monitoring.interval }}{{ $_ := set . "interval" $monitoring.interval }}{{ end }}
  {{- end }}
  {{- range $object.spec.selector.matchExpressions }}
    {{- if $monitoring.serviceMonitor.enabled }}{{ $_ := set . "values" (without .values "warmhook-web") }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}
