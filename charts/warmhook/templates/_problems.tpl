{{/* Find what an installation still lacks, one sentence or command per line, for NOTES.txt. */}}

{{/* Appends the keys of a Secret that entries name: paths, or maps with `file`. Takes `folder`, `entries`, `into`. */}}
{{- define "warmhook.keys" -}}
{{- $folder := .folder }}{{ $into := .into }}
{{- range .entries }}
  {{- $file := . }}
  {{- if kindIs "map" . }}{{ $file = .file }}{{ end }}
  {{- if hasPrefix $folder (toString $file) }}
    {{- $_ := set $into "keys" (append $into.keys (trimPrefix $folder $file) | uniq) }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Whether a Secret has these keys. Takes `root` ($), `name`, `keys` and `effect` (what happens without them). */}}
{{- define "warmhook.secretProblem" -}}
{{- $name := .name }}{{ $missing := .keys }}
{{- $isConnected := lookup "v1" "Namespace" "" "kube-system" }}
{{- $secret := lookup "v1" "Secret" "warmhook-system" $name }}
{{- range $key, $_ := default dict $secret.data }}{{ $missing = without $missing $key }}{{ end }}
{{- if and $missing (not $isConnected) }}
- The Secret {{ $name }} must have {{ join ", " $missing }}: {{ .effect }}.
{{- else if and $missing $secret }}
- The Secret {{ $name }} has no {{ join ", " $missing }}: {{ .effect }}. Add what is missing:
{{- range $missing }}
    kubectl -n warmhook-system patch secret {{ $name }} -p '{"stringData": {"{{ . }}": "..."}}'
{{- end }}
{{- else if $missing }}
- There is no Secret {{ $name }}: {{ .effect }}. Create it:
    kubectl -n warmhook-system create secret generic {{ $name }}{{ range $missing }} --from-literal={{ . }}='...'{{ end }}
{{- end }}
{{- end }}

{{/* Variables that entries name and `env` lacks. Takes `entries`, `env` and `path` (of `env` in the values). */}}
{{- define "warmhook.variableProblems" -}}
{{- $env := .env }}{{ $path := .path }}
{{- range .entries }}
{{- if kindIs "map" . }}
{{- if and .env (not (hasKey $env .env)) }}
- A secret is in the variable {{ .env }}, which {{ $path }} does not set: its Pods do not start without it.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pod Security of namespaces that the chart has not created. */}}
{{- define "warmhook.namespaceProblems" -}}
{{- $root := . }}
{{- range $name, $level := dict "warmhook-system" "restricted" "warmhook-agents" "privileged" }}
{{- if or (not $root.Values.namespaces.create) (eq $name $root.Release.Namespace) }}
{{- $namespace := lookup "v1" "Namespace" "" $name }}
{{- $labels := default dict (dig "metadata" "labels" dict (default dict $namespace)) }}
{{- if ne (get $labels "pod-security.kubernetes.io/enforce") $level }}
- The chart does not create the namespace {{ $name }}, so label it yourself:
    kubectl label --overwrite namespace {{ $name }} pod-security.kubernetes.io/enforce={{ $level }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "warmhook.problems" -}}
{{- $config := .Values.config }}
{{- if eq .Values.image.repository "warmhook" }}
- image.repository is not set, so nodes ask Docker Hub for library/warmhook: build the image and name it.
{{- end }}
{{- if not $config.sources }}
- No sender is configured (config.sources), so no webhook is accepted: see docs/senders.md.
{{- end }}
{{- $senders := dict "keys" list }}
{{- range $config.sources }}
{{- $entries := ternary .secret (list .secret) (kindIs "slice" .secret) }}
{{- include "warmhook.keys" (dict "folder" "/etc/warmhook/secrets/" "entries" $entries "into" $senders) }}
{{- include "warmhook.variableProblems" (dict "entries" $entries "env" $.Values.web.env "path" "web.env") }}
{{- end }}
{{- include "warmhook.secretProblem" (dict "root" . "name" .Values.secrets.senders "keys" $senders.keys "effect" "web does not start without it") }}
{{- $registries := dict "keys" list }}
{{- range $config.registries }}
{{- $entries := list .password .caFile }}
{{- include "warmhook.keys" (dict "folder" "/etc/warmhook/registries/" "entries" $entries "into" $registries) }}
{{- include "warmhook.variableProblems" (dict "entries" $entries "env" $.Values.handlers.env "path" "handlers.env") }}
{{- end }}
{{- include "warmhook.secretProblem" (dict "root" . "name" .Values.secrets.registries "keys" $registries.keys "effect" "the handlers do not start without it") }}
{{- include "warmhook.namespaceProblems" . }}
{{- end }}
