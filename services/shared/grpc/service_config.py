"""The gRPC service config: which calls a channel repeats by itself.

`deploy/grpc/service_config.json` is this config for clients in other languages; a test
holds the two equal. UNAVAILABLE alone is retried: the contract says that every call may
be sent again then, because mutations carry a `request_id` (channels of `channel.py` fill
in an empty one; clients in other languages set it themselves) or a fence. RESOURCE_EXHAUSTED
is not, for it comes with a delay that the caller must honour. Timeouts are not part of
it: a server does not see them (`channel.py` sets them per call).
"""

import json
from typing import Any

SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # A tenth of the calls at most may be repeats once the peer keeps failing.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def default_service_config() -> str:
    return json.dumps(SERVICE_CONFIG)
