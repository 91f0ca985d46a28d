"""The interceptors of every server, in order, in one place.

Outside in: the status that leaves, then what observes the call (span, log line,
metrics), then what may refuse it (in-flight limit, deadline, `extra` such as
authorization or rate limits), then the translation of whatever the handler raises, and
last the validation of each request message. Observers sit outside the refusals so that refused calls are seen as well.
"""

from collections.abc import Sequence

from services.shared.grpc.interceptors.base import Interceptor, InterceptorChain
from services.shared.grpc.interceptors.deadline import DeadlineInterceptor
from services.shared.grpc.interceptors.errors import Classifier, FaultInterceptor, StatusInterceptor
from services.shared.grpc.interceptors.limits import InFlightLimitInterceptor
from services.shared.grpc.interceptors.logging import LoggingInterceptor
from services.shared.grpc.interceptors.metrics import MetricsInterceptor
from services.shared.grpc.interceptors.tracing import TracingInterceptor
from services.shared.grpc.interceptors.validation import RequestValidator
from services.shared.telemetry.metrics import Metrics


def build_chain(
    *,
    metrics: Metrics,
    classify: Classifier,
    default_deadline_seconds: float,
    max_concurrent_rpcs: int,
    extra: Sequence[Interceptor] = (),
) -> InterceptorChain:
    return InterceptorChain(
        [
            StatusInterceptor(),
            TracingInterceptor(),
            LoggingInterceptor(),
            MetricsInterceptor(metrics),
            InFlightLimitInterceptor(limit=max_concurrent_rpcs),
            DeadlineInterceptor(default_seconds=default_deadline_seconds),
            *extra,
            FaultInterceptor(classify),
        ],
        checks=[RequestValidator()],
    )
