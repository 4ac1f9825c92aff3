//! Metrics in Prometheus's text format, read from the daemon's parts at each scrape.

use crate::clock;
use crate::node::view::Right;
use crate::status::Sources;
use lease::time::Millis;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The roles of `View::role`, each a series: exactly one of them is 1.
const ROLES: [&str; 12] = [
    "starting",
    "standby",
    "nominated",
    "accepting",
    "activating",
    "active",
    "freezing",
    "handing-over",
    "releasing",
    "demoting",
    "fenced",
    "gone",
];
const PEER_STATES: [&str; 8] = ["away", "meeting", "copying", "in step", "following", "behind", "differs", "diverged"];
const RESOURCE_STATES: [&str; 5] = ["stopped", "starting", "running", "failed", "stopping"];

/// A registry whose one collector reads `sources`.
#[must_use]
pub fn registry(sources: Arc<Sources>) -> Registry {
    let mut registry = Registry::with_prefix("leasehold");
    registry.register_collector(Box::new(Reader(sources)));
    registry
}

#[derive(Debug)]
struct Reader(Arc<Sources>);

/// One metric being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'v str)>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, &'v str)>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floating point; a count past 2^53 is out of reach")]
fn real(number: u64) -> f64 {
    number as f64
}

fn seconds(span: Millis) -> f64 {
    real(span.0) / 1_000.0
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

impl Collector for Reader {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.node(&mut page)?;
        self.lease(&mut page)?;
        self.parts(&mut page)?;
        self.peers(&mut page)?;
        self.volumes(&mut page)?;
        self.costs(&mut page)
    }
}

impl Reader {
    fn node(&self, page: &mut Page<'_>) -> fmt::Result {
        let sources = &self.0;
        let snapshot = sources.snapshot.borrow().clone();
        let version = env!("CARGO_PKG_VERSION");
        let me = vec![
            ("cluster", sources.config.cluster.as_str()),
            ("node", sources.me.node.as_str()),
            ("instance", sources.me.instance.as_str()),
            ("version", version),
        ];
        page.gauges("node_info", "Who this node is; always 1", [(me, 1.0)])?;
        let roles = ROLES.iter().map(|role| (vec![("role", *role)], flag(*role == snapshot.view.role)));
        page.gauges("role", "The node's role: 1 for the one it has", roles)?;
        let now = clock::now();
        page.gauge("role_seconds", "Since the role is what it is", seconds(now.shortest_since(snapshot.role_since)))?;
        page.gauge("core_silent_seconds", "Since the core last stepped", seconds(now.longest_since(snapshot.at)))
    }

    fn lease(&self, page: &mut Page<'_>) -> fmt::Result {
        let snapshot = self.0.snapshot.borrow().clone();
        let view = &snapshot.view;
        let now = clock::now();
        page.gauge("epoch", "The epoch that this node holds, or the row's", real(view.epoch.0))?;
        page.gauge("lease_left_seconds", "As holder: left of the lease", seconds(view.lease_left_ms))?;
        let may_serve = match view.authority {
            None => 0.0,
            Some(Right::For(left)) => seconds(left),
            Some(Right::Alone) => f64::INFINITY,
        };
        page.gauge("authority_left_seconds", "As holder: how long it may serve; +Inf: nobody can accept", may_serve)?;
        let promises =
            view.promises_left_ms.iter().map(|(member, left)| (vec![("member", member.as_str())], seconds(*left)));
        page.gauges("promise_left_seconds", "As holder: left of each member's promise", promises)?;
        page.gauge(
            "promise_given_left_seconds",
            "As standby: left of this node's own promise",
            seconds(view.promise_left_ms),
        )?;
        page.gauge("row_silent_seconds", "Since the row's (epoch, beat) last moved", seconds(view.silence_ms))?;
        let in_sync = view.row.as_ref().map_or(0, |row| row.in_sync.len());
        page.gauge("in_sync_members", "Members that hold every acknowledged write", real(in_sync as u64))?;
        let alone = snapshot.unprotected_since.map_or(Millis::ZERO, |since| now.shortest_since(since));
        page.gauge("unprotected_seconds", "As holder: since no standby is in sync; 0: one is", seconds(alone))?;
        page.gauge("row_write_unanswered", "1 while a write of the row has no answer", flag(view.unanswered_write))
    }

    fn parts(&self, page: &mut Page<'_>) -> fmt::Result {
        let address = self.0.address.borrow().clone();
        page.gauge("address_held", "1 while the virtual addresses are on this node", flag(address.held))?;
        page.gauge("address_problem", "1 while the kernel refuses an address", flag(address.problem.is_some()))?;
        if let Some((_, ports)) = &self.0.ports {
            let ports = ports.borrow().clone();
            page.gauge(
                "ports_open",
                "1 while the service's ports of this node's own addresses are open",
                flag(ports.open),
            )?;
            page.gauge("ports_healthy", "1 while load balancers' health checks are answered", flag(ports.healthy))?;
            page.gauge(
                "ports_problem",
                "1 while the kernel refuses to open or close them",
                flag(ports.problem.is_some()),
            )?;
        }
        let health = self.0.health.borrow().clone();
        let states = health.iter().flat_map(|resource| {
            RESOURCE_STATES.iter().map(move |state| {
                (vec![("resource", resource.name.as_str()), ("state", *state)], flag(*state == resource.state))
            })
        });
        page.gauges("resource_state", "Each resource's state: 1 for the one it has", states)
    }

    fn peers(&self, page: &mut Page<'_>) -> fmt::Result {
        let states = self.0.peers.states();
        let ups = states.iter().flat_map(|peer| {
            let series = |way, up| (vec![("peer", peer.node.as_str()), ("way", way)], flag(up));
            [series("outgoing", peer.outgoing_up_ms.is_some()), series("incoming", peer.incoming_up_ms.is_some())]
        });
        page.gauges("peer_link_up", "1 while the connection stands", ups)?;
        let board = self.0.peers.board();
        page.counter("peer_frames_sent", "Messages sent to peers", board.frames_sent.load(Ordering::Relaxed))?;
        page.counter(
            "peer_frames_received",
            "Messages received from peers",
            board.frames_received.load(Ordering::Relaxed),
        )?;
        page.counter(
            "peer_frames_dropped",
            "Messages that the core had no room for",
            board.frames_dropped.load(Ordering::Relaxed),
        )?;
        let refusals = board.refusals();
        let refused = refusals.iter().map(|(cause, count)| (vec![("cause", *cause)], *count));
        page.counters("peer_refusals", "Connections refused, by either side", refused)
    }

    fn volumes(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(shown) = &self.0.volumes else { return Ok(()) };
        let survey = shown.survey.borrow().clone();
        page.gauge(
            "volumes_whole",
            "1 while this node's image is whole, on a disk that works",
            flag(survey.consistent),
        )?;
        page.gauge("volumes_failed", "1 where the disk failed or stands still", flag(survey.failed))?;
        page.gauge("volumes_open", "1 while the devices take requests", flag(survey.leads.is_some()))?;
        let states = survey.peers.iter().flat_map(|peer| {
            PEER_STATES.iter().map(move |state| {
                (
                    vec![("replica", peer.incarnation.as_str()), ("state", *state)],
                    flag(*state == peer.state.to_string()),
                )
            })
        });
        page.gauges("volumes_peer_state", "As holder: each other replica's state, 1 for the one it has", states)?;
        let behind =
            survey.peers.iter().map(|peer| (vec![("replica", peer.incarnation.as_str())], real(peer.behind_bytes)));
        page.gauges("volumes_peer_behind_bytes", "As holder: what each other replica may lack at the most", behind)?;
        let now = clock::now();
        let lags = survey
            .peers
            .iter()
            .filter_map(|peer| Some((vec![("replica", peer.incarnation.as_str())], seconds(peer.lag.at(now)?))));
        page.gauges(
            "volumes_peer_lag_seconds",
            "As holder: how far each replica that follows asynchronously is behind, where that is known",
            lags,
        )?;
        let lag = survey.lag.at(now).map(|lag| (Vec::new(), seconds(lag)));
        page.gauges(
            "volumes_lag_seconds",
            "Of a replica that follows asynchronously: how far it is behind at the most, where it knows",
            lag,
        )?;
        let tally = survey.tally;
        page.counter("volumes_verified_bytes", "Compared with another replica's, by its holder", tally.compared_bytes)?;
        page.counter(
            "volumes_differing_chunks",
            "Chunks that a verification found to differ from another replica's",
            tally.differing_chunks,
        )?;
        page.counter(
            "volumes_reads_served_by_peers",
            "Reads that the local disk failed and a peer served",
            tally.reads_served,
        )?;
        page.counter("volumes_reads_repaired", "Those that were written to the local disk anew", tally.reads_repaired)?;
        page.counter("volumes_reads_failed", "Reads that the local disk failed and nobody served", tally.reads_failed)?;
        page.counter(
            "volumes_sent_data_bytes",
            "Data sent to other replicas, as the volumes hold them",
            survey.sent.data_bytes,
        )?;
        page.counter(
            "volumes_sent_wire_bytes",
            "The same as they travelled: fewer, where they are compressed",
            survey.sent.wire_bytes,
        )?;
        let under_way = survey.verification.as_ref().is_some_and(|verification| verification.ended.is_none());
        page.gauge("volumes_verification_under_way", "1 while a verification is under way", flag(under_way))?;
        let ended = survey.verification.and_then(|verification| verification.ended);
        let ages = ended.map(|ended| (Vec::new(), seconds(clock::now().shortest_since(ended))));
        page.gauges("volumes_verification_age_seconds", "Since the last verification ended, once one has", ages)
    }

    fn costs(&self, page: &mut Page<'_>) -> fmt::Result {
        let requests = self.0.requests();
        let outcomes = requests.iter().flat_map(|(name, (sent, failed))| {
            let series = |outcome, count| (vec![("operation", *name), ("outcome", outcome)], count);
            [series("answered", sent.saturating_sub(*failed)), series("failed", *failed)]
        });
        page.counters("dynamodb_requests", "Requests to DynamoDB, each try counted", outcomes)?;
        let (writes, reads) = self.0.billed();
        page.counter("dynamodb_writes", "Requests that DynamoDB bills as writes", writes)?;
        page.counter("dynamodb_reads", "Requests that DynamoDB bills as reads", reads)?;
        page.counter("events_put", "Events that the bus took", self.0.events.put.load(Ordering::Relaxed))?;
        page.counter("events_failed", "Events that the bus did not take", self.0.events.failed.load(Ordering::Relaxed))
    }
}
