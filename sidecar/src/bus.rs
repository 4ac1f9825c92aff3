//! Events on their way to the bus. Hints: the newest count, so that a full queue lets the oldest go.

use crate::aws::causes;
use crate::mailbox::Mailbox;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use lease::events::{Event, SOURCE};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Events that may wait. The machine gives a handful in a failover and repeats what matters.
pub const EVENTS_MAX: usize = 32;

/// Events so far. Never goes down.
#[derive(Debug, Default)]
pub struct Counts {
    pub put: AtomicU64,
    pub failed: AtomicU64,
}

/// Puts events on `bus`, one after the other.
pub async fn put_events(
    client: aws_sdk_eventbridge::Client,
    bus: String,
    queue: Arc<Mailbox<Event>>,
    counts: Arc<Counts>,
) -> std::convert::Infallible {
    loop {
        let event = queue.next().await;
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(&bus)
            .source(SOURCE)
            .detail_type(event.detail_type())
            .detail(event.detail())
            .build();
        let problem = match client.put_events().entries(entry).send().await {
            Ok(answer) => answer.entries().iter().find_map(|entry| {
                let code = entry.error_code()?;
                Some(format!("{code}: {}", entry.error_message().unwrap_or_default()))
            }),
            Err(error) => Some(causes(&error)),
        };
        match problem {
            None => counts.put.fetch_add(1, Ordering::Relaxed),
            Some(problem) => {
                tracing::warn!(bus, event = event.detail_type(), problem, "event not put");
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}
