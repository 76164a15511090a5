//! What operators watch, in the text format of Prometheus, version 0.0.4.
//!
//! This module alone knows the names. Whoever does something says so here in
//! the words of the domain, as it does to the log; what can be read at any time
//! is set right before it is asked for (see
//! [`Observation`](crate::service::observation::Observation)). Counters count
//! from the start of the process. Labels have few values: nothing of a client's
//! or a workspace's choosing is one.

#[cfg(any(test, feature = "test-util"))]
pub mod exposition;

use std::{sync::LazyLock, time::Duration};

use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::domain::{conversation::Usage, egress::EgressOutcome};

/// The media type of what [`encode`] gives.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a cached look to a commit of a large root file system, in seconds.
const ENGINE_SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 120.,
];
/// From a disk with a cache of its own to one that is being worn out.
const SYNC_SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 5.,
];
const PAUSE_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.,
];
const WORK_SECONDS: &[f64] = &[
    0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 120., 300., 600., 1_800.,
];

struct Metrics {
    registry: Registry,
    engine: HistogramVec,
    engine_up: IntGauge,
    looks: IntCounterVec,
    last_look: IntGauge,
    settled: IntCounterVec,
    snapshots_taken: IntCounter,
    snapshots_failed: IntCounter,
    snapshot_seconds: Histogram,
    pause_seconds: Histogram,
    store_writes: IntCounter,
    session_events: IntCounter,
    sync_seconds: HistogramVec,
    audit_records: IntCounter,
    audit_failures: IntCounterVec,
    audit_seconds: HistogramVec,
    audit_bytes: IntGauge,
    audit_checkpoint: IntGauge,
    model_calls: IntCounterVec,
    model_seconds: HistogramVec,
    model_tokens: IntCounterVec,
    egress_connections: IntCounterVec,
    egress_bytes: IntCounterVec,
    grpc_calls: IntCounterVec,
    garbage: IntCounterVec,
    garbage_bytes: IntCounterVec,
    orphans: IntGaugeVec,
    started: IntGauge,
    resident: IntGauge,
    workspaces: IntGaugeVec,
    agents: IntGauge,
    commands: IntGauge,
    snapshots: IntGauge,
    sessions: IntGaugeVec,
    disk_free: IntGauge,
    disk_low_water: IntGauge,
    disk_low: IntGauge,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let all = Names(&registry);
        let build = GaugeVec::new(
            Opts::new("compy_build_info", "1, with the version of the daemon."),
            &["version"],
        );
        all.add(build)
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.);
        Self {
            engine: all.histograms(
                "compy_engine_request_duration_seconds",
                "Time until the container engine answered, by the kind of object and the result (ok, refused, failed).",
                &["object", "result"],
                ENGINE_SECONDS,
            ),
            engine_up: all.gauge(
                "compy_engine_up",
                "Whether the container engine answered when it was last asked.",
            ),
            looks: all.counters(
                "compy_reconciler_looks_total",
                "Looks at all containers of the engine, by result (ok, error).",
                &["result"],
            ),
            last_look: all.gauge(
                "compy_reconciler_last_good_look_timestamp_seconds",
                "When all containers were last looked at; 0 before the first time.",
            ),
            settled: all.counters(
                "compy_reconciler_settles_total",
                "Workspaces that were compared with their desired state, by result (ok, error).",
                &["result"],
            ),
            snapshots_taken: all.counter(
                "compy_snapshots_taken_total",
                "Snapshots that were taken and stored.",
            ),
            snapshots_failed: all.counter(
                "compy_snapshots_failed_total",
                "Snapshots that were begun and undone.",
            ),
            snapshot_seconds: all.histogram(
                "compy_snapshot_duration_seconds",
                "Time that a snapshot took.",
                WORK_SECONDS,
            ),
            pause_seconds: all.histogram(
                "compy_snapshot_pause_seconds",
                "Time that processes stood still for a snapshot.",
                PAUSE_SECONDS,
            ),
            store_writes: all.counter(
                "compy_store_writes_total",
                "Records written to the store, durably.",
            ),
            session_events: all.counter(
                "compy_store_session_events_total",
                "Events appended to logs of sessions, durably.",
            ),
            sync_seconds: all.histograms(
                "compy_store_sync_duration_seconds",
                "Time to make a group of writes durable, by file (records, journal).",
                &["file"],
                SYNC_SECONDS,
            ),
            audit_records: all.counter(
                "compy_audit_records_total",
                "Records written to the audit log.",
            ),
            audit_failures: all.counters(
                "compy_audit_failures_total",
                "What the audit log could not do, by kind (write, sync, missed: records that found no room and are only counted).",
                &["kind"],
            ),
            audit_seconds: all.histograms(
                "compy_audit_append_duration_seconds",
                "Time to append a group of records, by whether somebody waited until they were on disk (written, durable).",
                &["kind"],
                SYNC_SECONDS,
            ),
            audit_bytes: all.gauge("compy_audit_bytes", "Bytes of the audit log's lines."),
            audit_checkpoint: all.gauge(
                "compy_audit_last_checkpoint_timestamp_seconds",
                "When the audit log was last signed; 0 before the first time.",
            ),
            model_calls: all.counters(
                "compy_model_calls_total",
                "Calls of language models with their retries, by provider and result (ok, cancelled, or the error).",
                &["provider", "result"],
            ),
            model_seconds: all.histograms(
                "compy_model_call_duration_seconds",
                "Time that a call of a language model took, retries included.",
                &["provider"],
                WORK_SECONDS,
            ),
            model_tokens: all.counters(
                "compy_model_tokens_total",
                "Tokens that providers reported, by kind (input, input_cached, cache_written, output).",
                &["provider", "kind"],
            ),
            egress_connections: all.counters(
                "compy_egress_connections_total",
                "Connections that workspaces wanted, by outcome (allowed, denied, failed).",
                &["outcome"],
            ),
            egress_bytes: all.counters(
                "compy_egress_bytes_total",
                "Bytes between workspaces and the world, by direction (sent, received).",
                &["direction"],
            ),
            grpc_calls: all.counters(
                "compy_grpc_calls_total",
                "Calls of clients that have ended, by method and gRPC code.",
                &["method", "code"],
            ),
            garbage: all.counters(
                "compy_garbage_removed_total",
                "Things removed because nothing needed them, by kind.",
                &["kind"],
            ),
            garbage_bytes: all.counters(
                "compy_garbage_freed_bytes_total",
                "Bytes that this gave back, where they are known, by kind.",
                &["kind"],
            ),
            orphans: all.gauges(
                "compy_orphans_kept",
                "Things that nothing names and that may be the only copy of somebody's files, by kind, at the last collection.",
                &["kind"],
            ),
            started: all.gauge(
                "process_start_time_seconds",
                "When the daemon started, in seconds since the Unix epoch.",
            ),
            resident: all.gauge("process_resident_memory_bytes", "Memory of the daemon."),
            workspaces: all.gauges(
                "compy_workspaces",
                "Workspaces, by desired and actual state.",
                &["desired", "state"],
            ),
            agents: all.gauge("compy_agent_links", "Agents of workspaces that are linked."),
            commands: all.gauge(
                "compy_commands_running",
                "Commands that run in the workspaces whose agents answered.",
            ),
            snapshots: all.gauge("compy_snapshots", "Snapshots that are stored."),
            sessions: all.gauges("compy_sessions", "Sessions, by state.", &["state"]),
            disk_free: all.gauge(
                "compy_disk_free_bytes",
                "Free bytes of the disk with the data directory.",
            ),
            disk_low_water: all.gauge(
                "compy_disk_low_water_bytes",
                "Free bytes below which nothing more is written.",
            ),
            disk_low: all.gauge(
                "compy_disk_low",
                "Whether the disk is below its low-water mark: writes are refused.",
            ),
            registry,
        }
    }
}

/// Makes metrics and registers them. Names and labels are constants of this
/// module, so what can be wrong with them a test finds.
struct Names<'a>(&'a Registry);

impl Names<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("names and labels are valid");
        let registered = self.0.register(Box::new(metric.clone()));
        registered.expect("each name is registered once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, seconds: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(seconds.to_vec());
        self.add(Histogram::with_opts(options))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], seconds: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(seconds.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

/// How the container engine answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineAnswer {
    /// As it should.
    Ok,
    /// With an error of its own.
    Refused,
    /// Not at all.
    None,
}

/// The engine was asked about an object: "containers", "volumes".
pub fn engine_asked(object: &'static str, answer: EngineAnswer, took: Duration) {
    let result = match answer {
        EngineAnswer::Ok => "ok",
        EngineAnswer::Refused => "refused",
        EngineAnswer::None => "failed",
    };
    let metrics = &*METRICS;
    let histogram = metrics.engine.with_label_values(&[object, result]);
    histogram.observe(took.as_secs_f64());
    (metrics.engine_up).set(i64::from(answer != EngineAnswer::None));
}

fn result_of<T, E>(result: &Result<T, E>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(_) => "error",
    }
}

/// The reconciler looked at all containers, at this time in milliseconds since
/// the Unix epoch.
pub fn reconciler_looked<T, E>(looked: &Result<T, E>, now_ms: i64) {
    let metrics = &*METRICS;
    metrics.looks.with_label_values(&[result_of(looked)]).inc();
    if looked.is_ok() {
        metrics.last_look.set(now_ms / 1000);
    }
}

/// The reconciler compared a workspace with its desired state.
pub fn reconciler_settled<T, E>(settled: &Result<T, E>) {
    METRICS
        .settled
        .with_label_values(&[result_of(settled)])
        .inc();
}

/// A snapshot was taken, or undone.
pub fn snapshot_ended<E>(pause_ms: Result<u64, E>, took: Duration) {
    let metrics = &*METRICS;
    match pause_ms {
        Ok(pause_ms) => {
            metrics.snapshots_taken.inc();
            metrics.snapshot_seconds.observe(took.as_secs_f64());
            let pause = Duration::from_millis(pause_ms);
            metrics.pause_seconds.observe(pause.as_secs_f64());
        }
        Err(_) => metrics.snapshots_failed.inc(),
    }
}

/// So many records of the store became durable together.
pub fn store_synced(writes: usize, took: Duration) {
    let metrics = &*METRICS;
    metrics.store_writes.inc_by(writes as u64);
    let histogram = metrics.sync_seconds.with_label_values(&["records"]);
    histogram.observe(took.as_secs_f64());
}

/// So many events of sessions became durable together.
pub fn journal_synced(events: usize, took: Duration) {
    let metrics = &*METRICS;
    metrics.session_events.inc_by(events as u64);
    let histogram = metrics.sync_seconds.with_label_values(&["journal"]);
    histogram.observe(took.as_secs_f64());
}

/// What became of records for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAppend {
    /// They are written, and synced soon.
    Written,
    /// They are on disk, and somebody waited for that.
    Durable,
}

/// So many records were appended to the audit log.
pub fn audit_appended(how: AuditAppend, records: usize, took: Duration) {
    let metrics = &*METRICS;
    metrics.audit_records.inc_by(records as u64);
    let kind = match how {
        AuditAppend::Written => "written",
        AuditAppend::Durable => "durable",
    };
    let histogram = metrics.audit_seconds.with_label_values(&[kind]);
    histogram.observe(took.as_secs_f64());
}

/// The audit log could not do something, so many times: "write", "sync",
/// "missed".
pub fn audit_failed(kind: &'static str, times: u64) {
    let counter = METRICS.audit_failures.with_label_values(&[kind]);
    counter.inc_by(times);
}

/// The lines of the audit log have so many bytes.
pub fn audit_has(bytes: u64) {
    METRICS.audit_bytes.set(gauge(bytes));
}

/// The audit log was signed, at this time in milliseconds since the Unix epoch.
pub fn audit_signed(at_ms: i64) {
    METRICS.audit_checkpoint.set(at_ms / 1000);
}

/// A language model was called; `result` is "ok" or the kind of the error.
pub fn model_called(
    provider: &'static str,
    result: &'static str,
    usage: Option<&Usage>,
    took: Duration,
) {
    let metrics = &*METRICS;
    let calls = metrics.model_calls.with_label_values(&[provider, result]);
    calls.inc();
    let histogram = metrics.model_seconds.with_label_values(&[provider]);
    histogram.observe(took.as_secs_f64());
    let Some(usage) = usage else { return };
    for (kind, tokens) in [
        ("input", usage.input_uncached),
        ("input_cached", usage.input_cached),
        ("cache_written", usage.cache_written),
        ("output", usage.output),
    ] {
        let counter = metrics.model_tokens.with_label_values(&[provider, kind]);
        counter.inc_by(tokens);
    }
}

/// A connection of a workspace was decided on.
pub fn egress_decided(outcome: &EgressOutcome) {
    let outcome = match outcome {
        EgressOutcome::Allowed(_) => "allowed",
        EgressOutcome::Denied(_) => "denied",
        EgressOutcome::Failed(_) => "failed",
    };
    METRICS
        .egress_connections
        .with_label_values(&[outcome])
        .inc();
}

/// A workspace sent bytes to the world.
pub fn egress_sent(bytes: usize) {
    let counter = METRICS.egress_bytes.with_label_values(&["sent"]);
    counter.inc_by(bytes as u64);
}

/// A workspace received bytes from the world.
pub fn egress_received(bytes: usize) {
    let counter = METRICS.egress_bytes.with_label_values(&["received"]);
    counter.inc_by(bytes as u64);
}

/// A client's call has ended. The method is one that is served.
pub fn grpc_called(method: &str, code: &str) {
    METRICS.grpc_calls.with_label_values(&[method, code]).inc();
}

/// What a collection removed and left of one kind.
pub fn garbage_collected(kind: &'static str, removed: u64, freed_bytes: u64, kept: u64) {
    let metrics = &*METRICS;
    metrics.garbage.with_label_values(&[kind]).inc_by(removed);
    let bytes = metrics.garbage_bytes.with_label_values(&[kind]);
    bytes.inc_by(freed_bytes);
    metrics.orphans.with_label_values(&[kind]).set(gauge(kept));
}

/// What is read when somebody asks. What could not be read is `None`, and keeps
/// the value that it had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// When the daemon started, in milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// Memory of the daemon in bytes.
    pub resident_bytes: u64,
    /// Desired and actual state of each workspace.
    pub workspaces: Option<Vec<(&'static str, &'static str)>>,
    /// Agents that are linked.
    pub agents: u64,
    /// Commands that run.
    pub commands: u64,
    /// Snapshots that are stored.
    pub snapshots: Option<u64>,
    /// State of each session.
    pub sessions: Option<Vec<&'static str>>,
    /// Free bytes of the disk.
    pub disk_free_bytes: Option<u64>,
    /// Free bytes below which nothing more is written.
    pub disk_low_water_bytes: u64,
}

/// Everything as text: what was counted, and these readings. Blocks nobody but
/// others who ask.
///
/// # Errors
/// A metric is inconsistent; says which.
pub fn encode(readings: &Readings) -> Result<String, String> {
    /// Keeps the readings of two who ask apart.
    static ASKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _asking = ASKING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let metrics = &*METRICS;
    metrics.started.set(readings.started_at_ms / 1000);
    metrics.resident.set(gauge(readings.resident_bytes));
    if let Some(workspaces) = &readings.workspaces {
        metrics.workspaces.reset();
        for (desired, state) in workspaces {
            metrics
                .workspaces
                .with_label_values(&[desired, state])
                .inc();
        }
    }
    if let Some(sessions) = &readings.sessions {
        metrics.sessions.reset();
        for state in sessions {
            metrics.sessions.with_label_values(&[state]).inc();
        }
    }
    metrics.agents.set(gauge(readings.agents));
    metrics.commands.set(gauge(readings.commands));
    if let Some(snapshots) = readings.snapshots {
        metrics.snapshots.set(gauge(snapshots));
    }
    metrics
        .disk_low_water
        .set(gauge(readings.disk_low_water_bytes));
    if let Some(free) = readings.disk_free_bytes {
        metrics.disk_free.set(gauge(free));
        let low = free < readings.disk_low_water_bytes;
        metrics.disk_low.set(i64::from(low));
    }
    let mut text = Vec::new();
    let families = metrics.registry.gather();
    let encoded = TextEncoder::new().encode(&families, &mut text);
    encoded.map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{exposition::parse, *};

    /// Something of every metric, so that each is in the text.
    fn everything() -> Readings {
        engine_asked("containers", EngineAnswer::Ok, Duration::from_millis(3));
        reconciler_looked::<(), ()>(&Ok(()), 5_000);
        reconciler_settled::<(), ()>(&Err(()));
        snapshot_ended::<()>(Ok(120), Duration::from_secs(2));
        snapshot_ended(Err(()), Duration::from_secs(2));
        store_synced(3, Duration::from_micros(700));
        journal_synced(2, Duration::from_micros(700));
        audit_appended(AuditAppend::Durable, 4, Duration::from_micros(700));
        audit_failed("sync", 2);
        audit_has(77);
        audit_signed(8_000);
        let usage = Usage {
            input_uncached: 7,
            output: 5,
            ..Usage::default()
        };
        model_called("openai", "ok", Some(&usage), Duration::from_secs(1));
        egress_sent(10);
        egress_received(20);
        grpc_called("/compy.v1.SystemService/GetInfo", "OK");
        garbage_collected("volumes", 1, 2, 3);
        Readings {
            started_at_ms: 9_000,
            workspaces: Some(vec![("running", "running"), ("running", "missing")]),
            sessions: Some(vec!["paused"; 2]),
            disk_free_bytes: Some(5),
            disk_low_water_bytes: 6,
            snapshots: Some(4),
            ..Readings::default()
        }
    }

    #[test]
    fn the_text_is_what_the_format_wants_and_says_what_was_told() {
        let text = encode(&everything()).unwrap();
        let families = parse(&text).unwrap();
        let value = |name: &str, labels: &[(&str, &str)]| {
            let found = exposition::value(&families, name, labels);
            found.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{text}"))
        };
        assert_eq!(
            value(
                "compy_build_info",
                &[("version", env!("CARGO_PKG_VERSION"))]
            ),
            1.
        );
        assert_eq!(value("compy_engine_up", &[]), 1.);
        assert_eq!(
            value("compy_reconciler_last_good_look_timestamp_seconds", &[]),
            5.
        );
        assert_eq!(value("compy_snapshot_pause_seconds_sum", &[]), 0.12);
        let slow = [("le", "0.1")];
        assert_eq!(value("compy_snapshot_pause_seconds_bucket", &slow), 0.);
        let quick = [("le", "0.25")];
        assert_eq!(value("compy_snapshot_pause_seconds_bucket", &quick), 1.);
        assert_eq!(value("compy_snapshots_failed_total", &[]), 1.);
        assert_eq!(value("compy_store_writes_total", &[]), 3.);
        let sync = [("kind", "sync")];
        assert_eq!(value("compy_audit_failures_total", &sync), 2.);
        let durable = [("kind", "durable")];
        let appended = "compy_audit_append_duration_seconds_count";
        assert!(value(appended, &durable) >= 1.);
        assert!(value("compy_audit_records_total", &[]) >= 4.);
        let input = [("provider", "openai"), ("kind", "input")];
        assert_eq!(value("compy_model_tokens_total", &input), 7.);
        let missing = [("desired", "running"), ("state", "missing")];
        assert_eq!(value("compy_workspaces", &missing), 1.);
        assert_eq!(value("compy_sessions", &[("state", "paused")]), 2.);
        assert_eq!(value("compy_disk_low", &[]), 1.);
        assert_eq!(value("compy_orphans_kept", &[("kind", "volumes")]), 3.);
    }

    #[test]
    fn what_is_not_there_any_more_is_not_told_and_what_was_not_read_stays() {
        encode(&everything()).unwrap();
        let unread = Readings::default();
        let families = parse(&encode(&unread).unwrap()).unwrap();
        let paused = [("state", "paused")];
        assert_eq!(
            exposition::value(&families, "compy_sessions", &paused),
            Some(2.)
        );
        let none = Readings {
            sessions: Some(Vec::new()),
            ..Readings::default()
        };
        let families = parse(&encode(&none).unwrap()).unwrap();
        assert_eq!(
            exposition::value(&families, "compy_sessions", &paused),
            None
        );
    }
}
