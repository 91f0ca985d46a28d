"""Channel arguments of servers and clients, side by side because they must fit each other.

A client may ping every 30 s, also without calls; a server tolerates a ping every 10 s.
Equal values would strike through jitter and end in GOAWAY `too_many_pings`.
"""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024

_MAX_METADATA_BYTES = 16 * 1024

Options = list[tuple[str, int | str]]


def server_options(*, share_port: bool, max_connection_age_seconds: float) -> Options:
    """`share_port` lets worker processes listen on one port; without it a second server fails to start."""
    options: Options = [
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if max_connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", round(max_connection_age_seconds * 1000)),
            # Streams that outlive the age end on their own; this long after it they are cut.
            ("grpc.max_connection_age_grace_ms", 600_000),
        ]
    return options


def client_options(*, service_config: str) -> Options:
    return [
        # A channel's connections are its own: one that is opened anew connects at once,
        # whatever backoff an older one to the same address is in.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config),
    ]
