{{- define "tidelog.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tidelog.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tidelog.labels" -}}
{{ include "tidelog.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Where a pod is found by its name. */}}
{{- define "tidelog.domain" -}}
{{ include "tidelog.name" . }}-brokers.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- /* ID@HOST:PORT of every first broker; the id is the pod's number. */}}
{{- define "tidelog.seeds" -}}
{{- $root := . }}{{ $seeds := list }}
{{- range $n := until (int .Values.replicas) }}
{{- $seeds = append $seeds (printf "%d@%s-%d.%s:9192" $n (include "tidelog.name" $root) $n (include "tidelog.domain" $root)) }}
{{- end }}
{{- join "," $seeds }}
{{- end }}
