{{- define "nat64.labels" -}}
app.kubernetes.io/name: nat64-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: nat64-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "nat64.selector" -}}
app.kubernetes.io/name: nat64-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* An image with its digest, else its tag, else the chart's appVersion. */ -}}
{{- define "nat64.image" -}}
{{- $image := index . 0 -}}{{- $root := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The name of a pull secret. YAML reads one of digits as a number, which is no name to Kubernetes. */ -}}
{{- define "nat64.pullSecret" -}}
{{- if kindIs "string" .name -}}{{ .name }}{{- else -}}{{ int64 .name }}{{- end -}}
{{- end }}

{{- define "nat64.pullSecrets" -}}
{{- range . }}
- name: {{ include "nat64.pullSecret" . | quote }}
{{- end }}
{{- end }}

{{- /* Fails where another release has the cluster's objects, and says which. */ -}}
{{- define "nat64.onlyRelease" -}}
{{- with lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "nat64-operator" -}}
{{- $owner := .metadata.annotations | default dict -}}
{{- $name := index $owner "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := index $owner "meta.helm.sh/release-namespace" | default "" -}}
{{- if or (ne $name $.Release.Name) (ne $namespace $.Release.Namespace) -}}
{{- fail (printf "nat64-operator is in this cluster already, as release %q in namespace %q. One serves the whole cluster: upgrade that one, or uninstall it first." $name $namespace) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "nat64.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "nat64.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
