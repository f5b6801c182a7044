//! A registry in a folder of its own, with a clock that stands still.

use floodplain_access::{Caller, Page, Registry};
use floodplain_types::{ManualClock, Timestamp};
use std::{net::IpAddr, path::PathBuf, sync::Arc};

pub(crate) const PASSWORD: &str = "a password of anna";
pub(crate) const ALL: Page<'_> = Page { after: "", limit: 1000 };
pub(crate) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) registry: Registry,
}

impl Rig {
    /// Unclaimed.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_251_600_000)));
        let registry = Registry::open(&folder.path().join("registry.db"), clock.clone()).await.unwrap();
        Self { folder, clock, registry }
    }

    /// With the admin `anna`.
    pub(crate) async fn claimed() -> (Self, Caller) {
        let rig = Self::new().await;
        let token = rig.registry.setup_token().unwrap();
        let anna = rig.registry.setup(token.reveal(), "anna", PASSWORD).await.unwrap();
        (rig, anna)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("registry.db")
    }

    /// Closes it and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.registry.close().await;
        self.registry = Registry::open(&self.path(), self.clock.clone()).await.unwrap();
    }
}
