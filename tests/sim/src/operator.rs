//! The operator: what people ask of `failover` by hand, now and then and not always at a good moment.

use crate::weather::Kind;
use crate::world::{NAMES, World};
use serde_json::{Value, json};
use std::sync::Arc;

impl World {
    fn ask_by_hand(&mut self, what: &'static str, mut request: Value) {
        request["cluster"] = json!(self.cluster);
        self.trace.line(self.now, "operator", || request.to_string());
        self.invoke(Arc::new(request), what);
    }

    pub(crate) fn operate(&mut self, kind: Kind, host: usize) {
        let other = (host + 1 + self.dice.index(self.hosts.len() - 1)) % self.hosts.len();
        let named = self.dice.below(2) == 0;
        match kind {
            Kind::PauseCluster => self.ask_by_hand("pause", json!({ "action": "pause", "reason": "maintenance" })),
            Kind::Force | Kind::ForceLossy => {
                let (lossy, stop) = (kind == Kind::ForceLossy, self.dice.below(2) == 0);
                let mut request = json!({ "action": "failover", "accept_data_loss": lossy, "force_stop": stop });
                if named {
                    request["to"] = json!(NAMES[other]);
                }
                self.ask_by_hand("failover", request);
            }
            _ => {
                let mut request = json!({ "action": "switchover" });
                if named {
                    request["to"] = json!(NAMES[other]);
                }
                self.ask_by_hand("switchover", request);
            }
        }
    }

    pub(crate) fn resume_cluster(&mut self) {
        self.ask_by_hand("resume", json!({ "action": "resume" }));
    }

    /// The last resort: the row's members are all gone for good.
    pub(crate) fn force_with_loss(&mut self) {
        self.ask_by_hand("failover", json!({ "action": "failover", "accept_data_loss": true, "force_stop": true }));
    }
}
