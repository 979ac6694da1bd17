//! The three brokers of the cluster, each of which may be hurt.
//!
//! The rule: whoever hurts one is alone with the cluster, and leaves it whole, however it ends.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support::broker::{Kafka, script};

static CLUSTER: RwLock<()> = RwLock::new(());

/// Keeps the brokers whole while a case only uses them.
pub(crate) fn whole() -> RwLockReadGuard<'static, ()> {
    CLUSTER.read().unwrap_or_else(PoisonError::into_inner)
}

/// The brokers, by their numbers from 1 to 3, for one case alone.
#[derive(Debug)]
pub(crate) struct Nodes {
    hurt: Vec<i32>,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Nodes {
    /// Waits until no other case uses the cluster.
    pub(crate) fn alone() -> Self {
        Self {
            hurt: Vec::new(),
            _alone: CLUSTER.write().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Ends one as a crash would.
    pub(crate) fn kill(&mut self, node: i32) {
        self.hurt.push(node);
        run("kill", node);
    }

    /// Starts one again, after it was stopped in good order if it runs.
    pub(crate) fn restart(&mut self, node: i32) {
        self.hurt.push(node);
        run("restart", node);
        self.hurt.retain(|hurt| *hurt != node);
    }

    /// Holds one still: its connections stay, and nothing is answered.
    pub(crate) fn pause(&mut self, node: i32) {
        self.hurt.push(node);
        run("pause", node);
    }

    /// Lets one go on.
    pub(crate) fn resume(&mut self, node: i32) {
        run("resume", node);
        self.hurt.retain(|hurt| *hurt != node);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in std::mem::take(&mut self.hurt) {
            run("kill", node);
            run("restart", node);
        }
    }
}

fn run(command: &str, node: i32) {
    let folder = format!("{}/{node}", Kafka::Cluster.folder());
    script(command, &folder, &[]);
}
