//! Tables and alerts: kept by this server, or by another one that shares the log.

use crate::{Config, StartError, alerts, engine::Engine, server::open_stream};
use floodplain_fold::Objects;
use floodplain_history::{
    History,
    bindings::{BindingsFollower, CurrentBindings},
    engine::EngineConfig,
    route::DefaultRoute,
};
use floodplain_log::{DataStreams, Disk as _, OsDisk};
use floodplain_sql::Tables;
use floodplain_streams::{Alerts, Service};
use floodplain_types::SystemClock;
use std::{path::PathBuf, sync::Arc};

/// Who keeps them.
pub(crate) enum Keeping {
    Here {
        history: History,
        tables: Tables,
        alerts: Service,
    },
    /// What is published here goes where the bindings say all the same.
    Elsewhere(BindingsFollower),
}

impl Keeping {
    pub(crate) fn open(
        config: &Config,
        engine: &Engine,
        snapshots: &Arc<dyn Objects>,
        streams: &DataStreams,
    ) -> Result<Self, StartError> {
        let dir = config.data_dir.join("history");
        if !config.history {
            let log = engine.log();
            let state = open_stream(&*log, "state", config.broker.partitions)?;
            let follower = BindingsFollower::open(&dir, Arc::new(OsDisk), log, Arc::new(SystemClock), &state);
            return follower.map(Self::Elsewhere).map_err(StartError::History);
        }
        // Alerts come before history, which brings them its rows.
        let alerts = open_alerts(config, engine, snapshots.clone(), streams.clone())?;
        let (history, tables) = open_history(config, dir, engine, streams, alerts.alerts())?;
        Ok(Self::Here { history, tables, alerts })
    }

    pub(crate) fn bindings(&self) -> Arc<CurrentBindings> {
        match self {
            Self::Here { history, .. } => history.handle().current_bindings(),
            Self::Elsewhere(follower) => Arc::clone(follower.current()),
        }
    }

    pub(crate) fn tables(&self) -> Option<Tables> {
        match self {
            Self::Here { tables, .. } => Some(tables.clone()),
            Self::Elsewhere(..) => None,
        }
    }

    pub(crate) fn alerts(&self) -> Option<Alerts> {
        match self {
            Self::Here { alerts, .. } => Some(alerts.alerts().clone()),
            Self::Elsewhere(..) => None,
        }
    }

    /// Writes rows that are in memory to files, and ends. Blocks.
    pub(crate) fn stop(self) {
        if let Self::Here { history, alerts, .. } = self {
            history.stop();
            alerts.stop();
        }
    }
}

fn open_alerts(
    config: &Config,
    engine: &Engine,
    snapshots: Arc<dyn Objects>,
    data: DataStreams,
) -> Result<Service, StartError> {
    let log = engine.log();
    let open = |name| open_stream(&*log, name, config.broker.partitions);
    let (state, stream) = (open("state")?, open("alerts")?);
    alerts::start(config, snapshots, log, data, state, stream).map_err(StartError::Alerts)
}

/// Tables of what devices publish. What is in memory only is decoded from the log again.
fn open_history(
    config: &Config,
    dir: PathBuf,
    engine: &Engine,
    streams: &DataStreams,
    alerts: &Alerts,
) -> Result<(History, Tables), StartError> {
    let log = engine.log();
    let open = |name, partitions| open_stream(&*log, name, partitions);
    let inputs = streams.list().to_vec();
    let (state, manifest) = (open("state", config.broker.partitions)?, open("_history", 1)?);
    let mut history = EngineConfig::new(dir, inputs.clone(), state, manifest);
    history.observer = Some(Arc::new(alerts::Rows(alerts.clone())));
    history.files_bytes_max = Some(match config.history_bytes_max {
        Some(bytes) => bytes,
        None => OsDisk.space(&config.data_dir).map_err(StartError::Space)?.total_bytes / 10 * 3,
    });
    history.log_retention = Some(engine.retention(config));
    history.bindings.clone_from(&config.bindings);
    history.retention.clone_from(&config.retention);
    let (disk, route) = (Arc::new(OsDisk), Arc::new(DefaultRoute::default()));
    let history = History::open(history, disk, log, Arc::new(SystemClock), route).map_err(StartError::History)?;
    let tables = Tables { handle: history.handle().clone(), inputs };
    Ok((history, tables))
}
