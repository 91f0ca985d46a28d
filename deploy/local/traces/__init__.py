"""A stand-in for an OpenTelemetry collector and its trace store, for one machine.

Services export by OTLP as in production. The collector appends each span as one JSON line to a rotating file; the
reader puts the spans of one trace together. Any other backend takes its place when OTEL_EXPORTER_OTLP_ENDPOINT names
it.
"""
