//! The answer to a client that reads the metrics of workers: which workers there are, and where each of them has its own.

use crate::control::protocol::Response;
use crate::observe::scrape::{ScrapePool, ScrapeWorker};
use crate::plan::{Context, MetricsPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::status::slot_state;
use rotad_core::PoolId;
use std::path::Path;

impl Supervisor {
    /// Answers with the workers of all pools that have metrics.
    pub(crate) fn answer_scrape_targets(&mut self, client: u64) {
        let pools = self.pools.iter();
        let metrics =
            pools.filter_map(|(id, _)| Some((id, self.pools.plan(id)?.metrics.as_ref()?)));
        let pools = metrics.map(|(id, metrics)| self.scrape_pool(id, metrics));
        let response = Response::ScrapeTargets(pools.collect());
        self.answer(client, &response, true);
    }

    fn scrape_pool(&self, id: PoolId, metrics: &MetricsPlan) -> ScrapePool {
        let pool = self.pools.name(id);
        let view = self.engine.view();
        let workers = view.workers().filter(|worker| worker.pool == id);
        let workers = workers.filter_map(|worker| {
            let process = self.workers.processes.get(worker.id)?;
            process.pid()?;
            // The configuration allows no placeholders of others.
            let nowhere = Path::new("");
            let address = metrics.scrape.expand(&Context {
                addresses: &[],
                pool,
                slot: process.slot.0,
                generation: process.generation.0,
                port: process.port,
                rotad: nowhere,
                node_preload: nowhere,
            });
            Some(ScrapeWorker {
                worker: process.tag.clone(),
                slot: process.slot.0,
                generation: process.generation.0,
                state: slot_state(worker.state),
                address: address.to_string_lossy().into_owned(),
            })
        });
        ScrapePool {
            pool: pool.to_owned(),
            gauges: metrics.gauges,
            workers: workers.collect(),
        }
    }
}
