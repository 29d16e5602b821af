{{/* Read the kustomizations of knative/, so that the chart and kustomize install the same objects. */}}

{{/*
Appends the objects of a kustomization to `into.objects`: those of its resources, with its patches. Takes a dict of
`root` ($), `folder` (below manifests/) and `into` (a dict). Its images and generated ConfigMaps are made from values.
*/}}
{{- define "warmhook.load" -}}
{{- $root := .root }}{{ $folder := .folder }}{{ $into := .into }}
{{- $text := $root.Files.Get (printf "manifests/%s/kustomization.yaml" $folder) }}
{{- if not $text }}{{ fail (printf "the chart is incomplete: it has no manifests/%s" $folder) }}{{ end }}
{{- $kustomization := fromYaml $text }}
{{- range concat (default list $kustomization.resources) (default list $kustomization.components) }}
  {{- $path := clean (printf "%s/%s" $folder .) }}
  {{- if hasSuffix ".yaml" . }}
    {{- range splitList "\n---\n" ($root.Files.Get (printf "manifests/%s" $path)) }}
      {{- $_ := set $into "objects" (append $into.objects (fromYaml .)) }}
    {{- end }}
  {{- else }}
    {{- include "warmhook.load" (dict "root" $root "folder" $path "into" $into) }}
  {{- end }}
{{- end }}
{{- range $kustomization.patches }}
  {{- include "warmhook.patch" (dict "target" .target "patch" .patch "into" $into) }}
{{- end }}
{{- end }}

{{/* Applies one patch of a kustomization: it deletes an object, or adds and replaces fields of it (RFC 6902). */}}
{{- define "warmhook.patch" -}}
{{- $target := .target }}{{ $found := list }}{{ $others := list }}
{{- range .into.objects }}
  {{- $version := splitList "/" .apiVersion | last }}
  {{- $group := trimSuffix "/" (trimSuffix $version .apiVersion) }}
  {{- $matches := and (eq .kind $target.kind) (eq .metadata.name $target.name) }}
  {{- if and $matches (eq $version (default $version $target.version)) (eq $group (default $group $target.group)) }}
    {{- $found = append $found . }}
  {{- else }}
    {{- $others = append $others . }}
  {{- end }}
{{- end }}
{{- if ne (len $found) 1 }}{{ fail (printf "%d objects are %s %s" (len $found) $target.kind $target.name) }}{{ end }}
{{- if contains "$patch: delete" .patch }}
  {{- $_ := set .into "objects" $others }}
{{- else }}
  {{- range fromYamlArray .patch }}
    {{- if not (has .op (list "add" "replace")) }}{{ fail (printf "the chart knows no operation %s" .op) }}{{ end }}
    {{- $place := first $found }}{{ $parts := rest (splitList "/" .path) }}
    {{- range initial $parts }}
      {{- if kindIs "slice" $place }}{{ $place = index $place (int .) }}{{ else }}{{ $place = index $place . }}{{ end }}
    {{- end }}
    {{- $_ := set $place (last $parts | replace "~1" "/") .value }}
  {{- end }}
{{- end }}
{{- end }}
