{{- define "podtally.labels" -}}
app.kubernetes.io/name: podtally
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "podtally.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The agent's configuration: what the chart sets, then what the user does. */ -}}
{{- define "podtally.config" -}}
{{- $address := ternary "127.0.0.1" .Values.address .Values.kubeRbacProxy.enabled -}}
{{- $set := dict "listen" (printf "%s:%v" $address (int .Values.port)) "kubernetes" "on" "events" "-" -}}
{{- toYaml (mergeOverwrite $set (deepCopy .Values.config)) -}}
{{- end }}

{{- define "podtally.probe" -}}
{{- if .Values.kubeRbacProxy.enabled -}}
host: 127.0.0.1
port: {{ int .Values.port }}
{{- else -}}
port: metrics
{{- end }}
{{- end }}
