//! What changes while the server runs: certificates, tokens, quotas, limits, rules for peers, how much is logged.
//!
//! Flags and environment of a process can't change, but the files they name can: the certificate and its key, the
//! tokens, and the configuration file. All of it is read and checked before anything is taken into use, so what is
//! refused changes nothing. What was granted stays granted: no allocation and no connection ends by it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meetpoint_turn::RelayPolicy;
use serde_json::json;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api_tokens::{ApiTokens, RereadError};
use crate::config::{AccessLimits, RelaySettings, ServeConfig, Setting};
use crate::data_dir::DataDir;
use crate::http::gate::Gate;
use crate::identity::{Identity, ReloadError, Reloaded, repin};
use crate::reload::Reload;
use crate::rendezvous::Handle;
use crate::service::{Action, Actor, Service, ServiceError, UnixMs};
use crate::udp::RelayHandle;

/// Settings that need no restart, by the names of their flags.
const LIVE: [&str; 19] = [
    "relay-allow-peer",
    "relay-deny-peer",
    "relay-allocations",
    "relay-allocations-per-user",
    "relay-allocations-per-source",
    "relay-peers",
    "relay-rate",
    "relay-rate-per-user",
    "relay-rate-per-source",
    "relay-rate-total",
    "limit-rest",
    "limit-rest-block",
    "limit-join-failures",
    "limit-join-failures-block",
    "limit-introductions",
    "limit-introductions-block",
    "limit-connections",
    "limit-joins",
    LOG_LEVEL,
];
const LOG_LEVEL: &str = "log-level";

/// What flags, environment and file say by now.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The configuration.
    pub config: ServeConfig,
    /// Its values one by one, to say what changed.
    pub settings: Vec<Setting>,
}

type Read = dyn Fn() -> Result<Fresh, String> + Send + Sync;
type SetLogLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// From where a running server has its configuration.
pub struct ConfigSource {
    /// What was said at the start.
    pub first: Vec<Setting>,
    /// Reads it again; the error names file, key, value and what is allowed.
    pub read: Box<Read>,
    /// Takes what `--log-level` says into use.
    pub set_log_level: Box<SetLogLevel>,
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSource").field("first", &self.first).finish_non_exhaustive()
    }
}

/// Why nothing was changed.
#[derive(Debug, Error)]
pub(crate) enum LiveError {
    /// The configuration file, or what it says together with the flags.
    #[error("{0}")]
    Config(String),
    /// The certificate or its key.
    #[error(transparent)]
    Certificate(#[from] ReloadError),
    /// A token's file.
    #[error(transparent)]
    Token(#[from] RereadError),
    /// The audit log does not take it.
    #[error("the audit log does not take it: {0}")]
    Service(#[from] ServiceError),
    /// A thread that reads files has ended.
    #[error("reading the files broke off")]
    Broken,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The certificate: `same`, `renewed`, or `rekeyed`.
    pub(crate) certificate: &'static str,
    /// Tokens that were replaced by their files.
    pub(crate) tokens: Vec<&'static str>,
    /// Settings that changed and are in use.
    pub(crate) changed: Vec<String>,
    /// Settings that changed, and are in use after a restart.
    pub(crate) needs_restart: Vec<String>,
}

/// What can be changed, and what holds now.
pub(crate) struct Live {
    identity: Arc<Identity>,
    data: Arc<DataDir>,
    tokens: Arc<ApiTokens>,
    service: Arc<Service>,
    source: Mutex<Option<ConfigSource>>,
    state: Mutex<State>,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    /// Nothing if this server does not relay.
    policy: Option<RelayPolicy>,
    settings: Vec<Setting>,
}

/// Where a change is taken into use.
pub(crate) struct Targets<'a> {
    pub(crate) machines: &'a RelayHandle,
    pub(crate) rendezvous: &'a Handle,
    pub(crate) strangers: &'a Gate,
    pub(crate) connections: &'a Gate,
    pub(crate) set_rest: &'a (dyn Fn(&AccessLimits) + Send + Sync),
}

impl Live {
    pub(crate) fn new(
        config: &ServeConfig,
        (identity, data): (Arc<Identity>, Arc<DataDir>),
        tokens: Arc<ApiTokens>,
        service: Arc<Service>,
    ) -> Self {
        let state = State { policy: policy(config), settings: Vec::new() };
        Self {
            identity,
            data,
            tokens,
            service,
            source: Mutex::default(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// From where the configuration is read again.
    pub(crate) fn set_source(&self, source: ConfigSource) {
        self.state().settings.clone_from(&source.first);
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No new allocations from now on.
    pub(crate) async fn stop_allocations(&self, machines: &RelayHandle) {
        let policy = {
            let mut state = self.state();
            if let Some(policy) = &mut state.policy {
                policy.is_draining = true;
            }
            state.policy.clone()
        };
        if let Some(policy) = policy {
            machines.set_policy(&policy).await;
        }
    }

    /// Reads all of it again, and takes it into use if all of it is sound.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        now: UnixMs,
        actor: Actor,
        targets: &Targets<'_>,
    ) -> Result<Changes, LiveError> {
        let _turn = self.turn.lock().await;
        let this = Arc::clone(self);
        // Files may lie on a disk that takes its time.
        let checked = tokio::task::spawn_blocking(move || this.check()).await;
        let fresh = checked.map_err(|_| LiveError::Broken)??;
        let mut changes = Changes::default();
        if let Some(fresh) = &fresh {
            (changes.changed, changes.needs_restart) = differences(&self.state().settings, &fresh.settings);
        }
        let detail = json!({ "changed": &changes.changed, "needs_restart": &changes.needs_restart });
        self.service.note(now, actor, Action::Reload, "configuration".to_owned(), detail).await?;
        let this = Arc::clone(self);
        let reloaded = tokio::task::spawn_blocking(move || this.identity.reload()).await;
        let reloaded = reloaded.map_err(|_| LiveError::Broken)??;
        changes.certificate = match reloaded {
            Reloaded::Same => "same",
            Reloaded::Renewed => "renewed",
            Reloaded::Rekeyed { .. } => "rekeyed",
        };
        repin(reloaded, &self.data);
        changes.tokens = self.tokens.reread_all(&self.service, now).await?;
        if let Some(fresh) = fresh {
            self.apply(fresh, targets).await;
        }
        Ok(changes)
    }

    /// All that can be refused, before anything is changed.
    fn check(&self) -> Result<Option<Fresh>, LiveError> {
        let fresh = match &*self.source.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(source) => Some((source.read)().map_err(LiveError::Config)?),
            None => None,
        };
        self.identity.check()?;
        self.tokens.check()?;
        Ok(fresh)
    }

    /// The flag's parser has taken it before, so there is nothing to refuse here.
    fn set_log_level(&self, settings: &[Setting]) {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(source), Some(level)) = (&*source, log_level(settings))
            && let Err(error) = (source.set_log_level)(level)
        {
            error!(%error, "the log level stays as it was");
        }
    }

    async fn apply(&self, fresh: Fresh, targets: &Targets<'_>) {
        let Fresh { config, settings } = fresh;
        self.set_log_level(&settings);
        let next = {
            let mut state = self.state();
            state.settings = settings_in_use(&state.settings, settings);
            let is_draining = state.policy.as_ref().is_some_and(|policy| policy.is_draining);
            // Whether it relays at all is decided at the start.
            let next = policy(&config).map(|next| RelayPolicy { is_draining, ..next });
            let next = next.filter(|_| state.policy.is_some());
            state.policy.clone_from(&next);
            next
        };
        if let Some(policy) = next {
            targets.machines.set_policy(&policy).await;
        }
        let limits = config.access_limits;
        targets.strangers.set_most_of_source(limits.joins_per_source);
        targets.connections.set_most_of_source(limits.connections_per_source);
        (targets.set_rest)(&limits);
        // If the broker is gone the server ends.
        let _ = targets.rendezvous.set_limits(limits).await;
    }
}

/// Of what changed only what can is in use.
fn settings_in_use(before: &[Setting], fresh: Vec<Setting>) -> Vec<Setting> {
    let in_use = |fresh: Setting| {
        let is_live = LIVE.contains(&&*fresh.name);
        let old = before.iter().find(|old| old.name == fresh.name).cloned();
        if is_live { fresh } else { old.unwrap_or(fresh) }
    };
    fresh.into_iter().map(in_use).collect()
}

fn log_level(settings: &[Setting]) -> Option<&str> {
    let setting = settings.iter().find(|setting| setting.name == LOG_LEVEL)?;
    setting.values.first().map(String::as_str)
}

/// Names of settings whose values are others: those in use, and those that need a restart.
fn differences(before: &[Setting], fresh: &[Setting]) -> (Vec<String>, Vec<String>) {
    let is_other = |fresh: &&Setting| {
        let old = before.iter().find(|old| old.name == fresh.name);
        old.is_none_or(|old| old.values != fresh.values)
    };
    let names = fresh.iter().filter(is_other).map(|setting| setting.name.clone());
    names.partition(|name| LIVE.contains(&name.as_str()))
}

/// What a server with this configuration relays to whom.
fn policy(config: &ServeConfig) -> Option<RelayPolicy> {
    let RelaySettings { allow, deny, .. } = config.relay.as_ref()?;
    let (allow, deny) = (allow.clone(), deny.clone());
    Some(RelayPolicy { limits: config.stun_limits.relay, allow, deny, is_draining: false })
}

/// Reloads whenever a signal asks for it, and tells the log.
pub(crate) async fn follow(app: crate::http::App, asked: Reload, stop: CancellationToken) {
    let mut requests = asked.requests();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = requests.next() => {}
        }
        match app.reload(UnixMs::now(), Actor::SERVER).await {
            Ok(Changes { certificate, tokens, changed, needs_restart }) => {
                info!(certificate, ?tokens, ?changed, "reloaded");
                if !needs_restart.is_empty() {
                    warn!(?needs_restart, "these settings changed, and are in use after a restart only");
                }
            }
            Err(error) => error!(%error, "not reloaded; all is as it was"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn setting(name: &str, value: &str) -> Setting {
        let values = vec![value.to_owned()];
        let (name, origin) = (name.to_owned(), Origin::Default);
        Setting { name, heading: None, env: None, values, is_secret: false, origin }
    }

    #[test]
    fn what_needs_a_restart_is_named_each_time() {
        let before = vec![setting("relay-rate", "1M"), setting("http", "127.0.0.1:1"), setting("data", "d")];
        let fresh = vec![setting("relay-rate", "2M"), setting("http", "127.0.0.1:2"), setting("data", "d")];
        let expect = (vec!["relay-rate".to_owned()], vec!["http".to_owned()]);
        assert_eq!(differences(&before, &fresh), expect);
        let in_use = settings_in_use(&before, fresh.clone());
        assert_eq!(differences(&in_use, &fresh), (vec![], vec!["http".to_owned()]));
    }
}
