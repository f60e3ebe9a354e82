"""The settings: every bound of the server, with its unit, its range and its default."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The unit is last in a name. Where the values come from, `configuration` knows."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8080
    data_dir: Annotated[str, Meta(min_length=1, description="Folder of the database, the ledger and the lock.")] = (
        "data"
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(\*|\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)$")], ...],
        Meta(min_length=1, description="Names that `Host` and `Origin` may carry, without port; `*` allows all."),
    ] = ("127.0.0.1", "localhost", "[::1]")
    allow_anonymous: Annotated[
        bool,
        Meta(description="Listen elsewhere than on loopback without authentication: anyone may do anything."),
    ] = False
    log_format: Annotated[Literal["human", "json"], Meta(description="Form of the log lines.")] = "human"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")
    ] = "info"

    jwt_secret: Annotated[
        Text | None, Meta(description="Shared secret of 32 bytes or more that signs tokens (HS256).")
    ] = None
    jwt_secret_file: Annotated[
        Text | None, Meta(description="File with that secret instead; one line break at its end does not count.")
    ] = None
    jwt_public_key_file: Annotated[
        Text | None, Meta(description="PEM file of the public key that verifies tokens (RS256, ES256, EdDSA).")
    ] = None
    jwt_jwks: Annotated[
        Text | None, Meta(description="File or https URL of a JWK set whose keys verify tokens, by `kid`.")
    ] = None
    jwt_algorithms: Annotated[
        tuple[Literal["HS256", "RS256", "ES256", "EdDSA"], ...],
        Meta(description="Algorithms that tokens may use, each with keys of its kind only; none named: all of them."),
    ] = ()
    jwt_issuer: Annotated[str, Meta(min_length=1, description="What a token's `iss` must be.")] = "multiarm"
    jwt_audience: Annotated[str, Meta(min_length=1, description="What must be among a token's `aud`.")] = "multiarm"
    jwt_types: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z0-9+.-]+$")], ...],
        Meta(min_length=1, description="What a token's `typ` may be, in lower case and without `application/`."),
    ] = ("at+jwt", "jwt")
    jwt_leeway_s: Annotated[
        float, Meta(ge=0, le=300, description="How far clocks may differ where a token's times are checked.")
    ] = 10.0
    jwt_lifetime_limit_days: Annotated[
        float, Meta(gt=0, le=3660, description="Longest time from a token's `iat` to its `exp`.")
    ] = 366.0
    jwt_refresh_interval_s: Annotated[
        float, Meta(ge=0.1, le=86_400, description="Time between two readings of the file or URL with the keys.")
    ] = 300.0
    jwt_refresh_backoff_s: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="Least time between readings that tokens with a new `kid` ask for."),
    ] = 10.0
    jwt_keys_lifetime_s: Annotated[
        float, Meta(ge=1, le=1e8, description="How long keys are believed that cannot be read again.")
    ] = 86_400.0
    jwt_fetch_timeout_s: Annotated[
        float, Meta(ge=0.1, le=5, description="Longest time to fetch the keys from a URL.")
    ] = 5.0
    jwt_jwks_limit_bytes: Annotated[int, Meta(ge=1024, le=1 << 24, description="Largest file or answer with keys.")] = (
        1 << 20
    )
    revocation_interval_s: Annotated[
        float, Meta(ge=0.05, le=0.9, description="Time between two looks for tokens that were revoked.")
    ] = 0.25
    revocation_limit: Annotated[int, Meta(ge=1, le=1_000_000, description="Most revocations that are kept.")] = 100_000
    open_metrics: Annotated[bool, Meta(description="Show /metrics to those without a token too.")] = False
    metrics_arm_limit: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Arms that /metrics lists one by one, of the oldest experiments; the others are added up.",
        ),
    ] = 1_000
    metrics_reader_limit: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Readers of /metrics, told apart by what they may read, for whom it adds up the other arms.",
        ),
    ] = 64
    open_documentation: Annotated[
        bool, Meta(description="Show /docs and the OpenAPI document to those without a token too.")
    ] = False

    token_limit_bytes: Annotated[int, Meta(ge=256, le=12_288, description="Largest token; larger ones get 401.")] = 4096
    token_cache_limit_tokens: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most verified tokens that are remembered.")
    ] = 10_000
    token_rate_limit_per_s: Annotated[
        float, Meta(ge=0.01, le=1e7, description="Requests a second that one token may send; more get 429.")
    ] = 100_000.0
    token_burst_limit_requests: Annotated[
        int, Meta(ge=1, le=1_000_000_000, description="Requests that it may send at once, after a pause.")
    ] = 10_000
    refusal_rate_limit_per_s: Annotated[
        float, Meta(gt=0, le=1e6, description="Answers 401 and 429 a second to one address; more wait for their turn.")
    ] = 100.0
    refusal_delay_limit_s: Annotated[float, Meta(ge=0, le=5, description="Longest time that such an answer waits.")] = (
        5.0
    )

    express_lane: Annotated[
        bool, Meta(description="Answer draws and rewards straight from the parser; the answers are the same without.")
    ] = True
    head_cache_limit_heads: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Most heads of requests that the express lane remembers.")
    ] = 16_384
    head_cache_limit_bytes: Annotated[
        int, Meta(ge=0, le=1 << 30, description="Most bytes of heads that it remembers.")
    ] = 32 << 20
    head_cache_subject_limit_heads: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Most of the remembered heads that one token's subject may fill.")
    ] = 4_096
    connection_limit: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most connections at a time; more get 503.")
    ] = 20_000
    address_connection_limit: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Most of them from one address (of IPv6: a /64); more get 503."),
    ] = 16_000
    subject_share: Annotated[
        float,
        Meta(gt=0, le=1, description="Part of request_limit and of bodies_limit_bytes for one subject."),
    ] = 0.5
    request_limit: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Most requests in the application at a time; more get 503."),
    ] = 1_000
    head_limit_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 20, description="Largest head of a request; larger ones get 431.")
    ] = 16 << 10
    head_timeout_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="Longest time for a head to arrive whole; then 408.")
    ] = 10.0
    body_timeout_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="Longest time for a body to arrive whole; then 408.")
    ] = 30.0
    keep_alive_timeout_s: Annotated[
        float, Meta(ge=0.1, le=86_400, description="How long an idle connection is kept open.")
    ] = 75.0
    answer_timeout_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="How long a client may leave its answers unread.")
    ] = 30.0

    body_limit_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 30, description="Largest request body; larger ones get 413.")
    ] = 8 << 20
    bodies_limit_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 36, description="Most bytes of large bodies (over 64 KiB) at a time; more get 503.")
    ] = 64 << 20
    batch_limit_updates: Annotated[int, Meta(ge=1, le=10_000, description="Most updates in one batch.")] = 10_000
    payload_limit_bytes: Annotated[int, Meta(ge=2, le=1 << 20, description="Largest payload of an arm, as JSON.")] = (
        8192
    )
    experiment_limit: Annotated[int, Meta(ge=1, le=1_000_000, description="Most experiments at a time.")] = 10_000
    arm_limit: Annotated[int, Meta(ge=1, le=1_000, description="Most arms of one experiment at a time.")] = 1_000
    arms_ever_limit: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most arms ever added to one experiment, deleted ones included.")
    ] = 10_000

    store_mailbox_size_updates: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Updates that may wait for the database; beyond, 503.")
    ] = 100_000
    store_group_limit_updates: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most updates committed in one transaction.")
    ] = 10_000
    database_timeout_s: Annotated[
        float, Meta(ge=0.01, le=60, description="Longest wait for a locked database; then 503.")
    ] = 2.0
    reward_retention_days: Annotated[
        float, Meta(ge=1, le=36_500, description="How long rewards and their keys are kept, and decisions accepted.")
    ] = 30.0
    retention_interval_s: Annotated[
        float, Meta(ge=0.05, le=86_400, description="Time between two looks for rows past retention.")
    ] = 60.0
    draw_count_interval_s: Annotated[
        float, Meta(ge=0.05, le=1, description="Time between two writes of the draw counts.")
    ] = 0.5

    audit_retention_days: Annotated[
        float, Meta(ge=1, le=36_500, description="How long the audit trail keeps an entry.")
    ] = 730.0
    snapshot_interval_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Time between two snapshots of what changes; 0: none but at actions.")
    ] = 60.0
    snapshot_fine_days: Annotated[float, Meta(ge=0, le=36_500, description="How long every snapshot is kept.")] = 1.0
    snapshot_hourly_days: Annotated[
        float, Meta(ge=0, le=36_500, description="How long the first of each hour is kept, and those at actions.")
    ] = 31.0
    snapshot_daily_days: Annotated[
        float, Meta(ge=0, le=36_500, description="How long the first of each day is kept.")
    ] = 3650.0
    snapshot_action_limit: Annotated[
        int, Meta(ge=10, le=100_000, description="Snapshots at actions that an experiment keeps; the oldest goes.")
    ] = 1_000
    correction_limit_rewards: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Most rewards of an arm that are added up again where a huge one is put right; updates wait.",
        ),
    ] = 300_000
    history_limit_rows: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Most points of a history times the experiment's arms.")
    ] = 50_000
    history_reader_limit: Annotated[
        int, Meta(ge=1, le=10_000, description="Requests that read a history: one does, the others wait; beyond, 503.")
    ] = 16

    allocation_budget_share: Annotated[
        float, Meta(gt=0, le=1, description="Share of one core that recomputing allocations may take.")
    ] = 0.05
    allocation_inline_limit_s: Annotated[
        float, Meta(ge=0, le=1, description="Costlier allocations are computed off the event loop.")
    ] = 0.001

    health_interval_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=3600,
            description="Time between two health checks, of up to 200 experiments each and the database.",
        ),
    ] = 5.0
    restart_backoff_s: Annotated[
        float, Meta(ge=0.001, le=60, description="Wait before the first restart of a failed experiment; doubles.")
    ] = 0.1
    restart_backoff_limit_s: Annotated[float, Meta(ge=0.001, le=3600, description="Longest such wait.")] = 30.0
    quarantine_failures: Annotated[
        int, Meta(ge=1, le=100, description="Failures in a row after which an experiment is set aside.")
    ] = 5

    ledger_mailbox_size_rows: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Rows of each table that may wait for the ledger; beyond, dropped.")
    ] = 200_000
    ledger_flush_interval_s: Annotated[
        float, Meta(ge=0.01, le=1, description="Time between two writes of the ledger.")
    ] = 0.5
    ledger_segment_s: Annotated[
        float, Meta(ge=0.1, le=86_400, description="Age at which an open ledger file becomes Parquet.")
    ] = 300.0
    ledger_segment_limit_bytes: Annotated[
        int, Meta(ge=1024, le=1 << 34, description="Size at which an open ledger file becomes Parquet.")
    ] = 64 << 20
    ledger_retention_days: Annotated[int, Meta(ge=1, le=36_500, description="How long the ledger is kept.")] = 90

    shutdown_delay_s: Annotated[
        float, Meta(ge=0, le=3600, description="How long it still serves when told to stop, not ready, to be noticed.")
    ] = 0.0
    shutdown_timeout_s: Annotated[
        float, Meta(ge=2, le=9, description="Longest time to stop, requests in flight and all flushing included.")
    ] = 8.0

    @property
    def key_sources(self) -> list[str]:
        """The settings that say which keys sign tokens; with one of them there is authentication."""
        names = ("jwt_secret", "jwt_secret_file", "jwt_public_key_file", "jwt_jwks")
        return [name for name in names if getattr(self, name)]

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)
