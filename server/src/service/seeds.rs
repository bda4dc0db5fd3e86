//! Seeds that come and go while the server runs.
//!
//! Each use case edits the whole list of a cluster's seeds inside one transaction. What the cluster
//! amounts to then is asked of the rules before the commit and published after it. Only what the
//! operator stands by counts; what a seed says of itself waits for his approval.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meetpoint_proto::rules::{self, SeedFacts};
use meetpoint_proto::vouch::{MAX_SKEW_MS, Registration};
use meetpoint_proto::{
    AddressClass, ClusterName, ClusterNetwork, Code, EffectiveNetwork, NamePattern, NetworkType, NodeName,
    PublicKey, SeedAddr, SeedName, SeedOrigin, SeedStatus, Signature, TokenScope,
};
use serde_json::json;
use sqlx::SqliteConnection;

use super::audit::{Action, Actor, record};
use super::registered::check_usable;
use super::{Cluster, Service, ServiceError, UnixMs};
use crate::config::MAX_SEEDS;
use crate::defence::Defence;
use crate::seeds::{Checked, class, describe, lookup};
use crate::store::clusters::ClusterId;
use crate::store::seeds::{self, SeedRow};
use crate::store::tokens;

/// Seeds of one cluster that wait for the operator's approval. Counted apart, so that whoever holds a
/// token keeps the operator from nothing.
const MAX_PENDING: usize = 32;

/// A cluster's seeds, by name.
pub(super) type Seeds = BTreeMap<SeedName, SeedRow>;

/// What an edit has changed.
pub(super) struct News {
    /// What the cluster amounts to now.
    pub(super) effective: EffectiveNetwork,
    /// Those that are new or are not what they were.
    pub(super) changed: Vec<SeedRow>,
    /// Those that are no more.
    pub(super) gone: Vec<SeedRow>,
}

/// A seed as the operator wants it.
#[derive(Debug, Clone)]
pub(crate) struct NewSeed {
    pub(crate) addr: SeedAddr,
    pub(crate) declared: Option<NetworkType>,
    /// Without it the first answer's key is pinned.
    pub(crate) public_key: Option<PublicKey>,
    pub(crate) approved: bool,
}

/// A seed's own wish, with its signatures.
#[derive(Debug, Clone)]
pub(crate) struct SignedRegistration {
    pub(crate) registration: Registration,
    pub(crate) by_seed: Signature,
    pub(crate) by_token: Signature,
}

/// What the audit log tells of an edit.
struct Act {
    actor: Actor,
    action: Action,
    seed: SeedName,
}

impl Act {
    async fn record(
        self,
        tx: &mut SqliteConnection,
        now: UnixMs,
        cluster: &ClusterName,
        news: &News,
    ) -> Result<(), ServiceError> {
        let mut rows = news.changed.iter().chain(&news.gone);
        let row = rows.find(|row| row.addr.name == self.seed);
        let detail = json!({
            "host": row.map(|row| row.addr.host.to_string()),
            "port": row.map(|row| row.addr.port),
            "public": row.map(|row| row.is_public),
            "approved": row.map(|row| row.approved),
            "effective": news.effective.as_str(),
        });
        let target = format!("{cluster}/{}", self.seed);
        record(tx, now, &self.actor, self.action, &target, detail).await
    }
}

/// Edits a cluster's seeds, if the rules have nothing against the outcome.
pub(super) async fn apply<T>(
    tx: &mut SqliteConnection,
    cluster: ClusterId,
    kind: ClusterNetwork,
    now: UnixMs,
    edit: impl FnOnce(&mut Seeds) -> Result<T, ServiceError>,
) -> Result<(T, News), ServiceError> {
    let rows = seeds::all(&mut *tx, cluster).await?;
    let before: Seeds = rows.into_iter().map(|row| (row.addr.name.clone(), row)).collect();
    let mut after = before.clone();
    let value = edit(&mut after)?;
    let effective = effective(kind, &after).map_err(ServiceError::ClusterRule)?;
    let is_gone = |row: &&SeedRow| !after.contains_key(&row.addr.name);
    let gone: Vec<SeedRow> = before.values().filter(is_gone).cloned().collect();
    for row in &gone {
        seeds::delete(tx, cluster, &row.addr.name).await?;
        if row.origin == SeedOrigin::Flag {
            seeds::note_deleted(tx, cluster, &row.addr.name, now.0).await?;
        }
    }
    let mut changed = Vec::new();
    for (name, row) in after {
        let known = before.get(&name);
        if known == Some(&row) {
            continue;
        }
        seeds::put(tx, cluster, &row).await?;
        if known.is_none_or(|known| told(known) != told(&row)) {
            changed.push(row);
        }
    }
    Ok((value, News { effective, changed, gone }))
}

/// What others hear of a seed; not when it was verified last.
fn told(row: &SeedRow) -> (&SeedAddr, bool, bool, SeedStatus, Option<Code>) {
    (&row.addr, row.is_public, row.approved, row.status, row.reason)
}

fn effective(kind: ClusterNetwork, seeds: &Seeds) -> Result<EffectiveNetwork, Code> {
    let approved = seeds.values().filter(|seed| seed.approved);
    let facts: Vec<SeedFacts> = approved.map(|seed| SeedFacts { public: seed.is_public }).collect();
    rules::effective(kind, &facts)
}

/// Whether the rules accept the outcome; if not, it is this seed's fault.
fn check_rules(
    kind: ClusterNetwork,
    seeds: &Seeds,
    seed: &SeedAddr,
    reason: impl FnOnce() -> String,
) -> Result<(), ServiceError> {
    let refused = |code| ServiceError::SeedRefused { seed: Box::new(seed.clone()), code, reason: reason() };
    effective(kind, seeds).map(drop).map_err(refused)
}

/// A seed of which nothing is known, unless it is known at this place already.
pub(super) fn fresh(addr: SeedAddr, before: Option<&SeedRow>, now: UnixMs) -> SeedRow {
    if let Some(before) = before.filter(|before| is_same_place(&before.addr, &addr)) {
        return SeedRow { addr, ..before.clone() };
    }
    SeedRow {
        addr,
        is_public: false,
        created_ms: before.map_or(now.0, |before| before.created_ms),
        origin: before.map_or(SeedOrigin::Operator, |before| before.origin),
        approved: false,
        declared: None,
        public_key: None,
        status: SeedStatus::Unverified,
        reason: None,
        verified_ms: None,
        registered_from: None,
        issued_ms: before.and_then(|before| before.issued_ms),
    }
}

fn is_same_place(a: &SeedAddr, b: &SeedAddr) -> bool {
    a.host == b.host && a.port == b.port
}

impl Service {
    /// The seeds of a cluster, by name.
    pub(crate) async fn seeds(&self, cluster: &str) -> Result<Vec<SeedRow>, ServiceError> {
        Ok(self.store.timed(seeds::all(self.store.reads(), self.cluster(cluster)?.id)).await?)
    }

    /// One of them.
    pub(crate) async fn seed(&self, cluster: &str, name: &str) -> Result<SeedRow, ServiceError> {
        let seeds = self.seeds(cluster).await?;
        seeds.into_iter().find(|seed| seed.addr.name.as_str() == name).ok_or(ServiceError::UnknownSeed)
    }

    /// The operator adds a seed or replaces one. Tells whether it is new. The key of a known one stays
    /// pinned as long as it stays where it is, unless another is given.
    pub(crate) async fn put_seed(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        new: NewSeed,
    ) -> Result<(SeedRow, bool), ServiceError> {
        let kind = self.cluster(cluster)?.kind;
        let ips = lookup(&new.addr).await;
        let act = Act { actor: *actor, action: Action::SeedPut, seed: new.addr.name.clone() };
        self.edit_seeds(now, cluster, Some(act), move |seeds| put(kind, seeds, new, &ips, now)).await
    }

    /// The operator stands by a seed, or no longer does.
    pub(crate) async fn approve_seed(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        name: &str,
        approved: bool,
    ) -> Result<SeedRow, ServiceError> {
        let kind = self.cluster(cluster)?.kind;
        let name: SeedName = name.parse().map_err(|_| ServiceError::UnknownSeed)?;
        let act = Act { actor: *actor, action: Action::SeedApprove, seed: name.clone() };
        let edit = move |seeds: &mut Seeds| {
            let seed = seeds.get_mut(&name).ok_or(ServiceError::UnknownSeed)?;
            seed.approved = approved;
            let row = seed.clone();
            if approved {
                check_address(seeds, &row.addr)?;
            }
            check_count(seeds)?;
            check_rules(kind, seeds, &row.addr, || network_word(row.is_public).to_owned())?;
            Ok(row)
        };
        self.edit_seeds(now, cluster, Some(act), edit).await
    }

    /// The operator deletes a seed. One of the flags comes back with the next start.
    pub(crate) async fn delete_seed(
        &self,
        now: UnixMs,
        actor: &Actor,
        cluster: &str,
        name: &str,
    ) -> Result<SeedRow, ServiceError> {
        let kind = self.cluster(cluster)?.kind;
        let name: SeedName = name.parse().map_err(|_| ServiceError::UnknownSeed)?;
        let act = Act { actor: *actor, action: Action::SeedDelete, seed: name.clone() };
        let edit = move |seeds: &mut Seeds| {
            let gone = seeds.remove(&name).ok_or(ServiceError::UnknownSeed)?;
            check_rules(kind, seeds, &gone.addr, || "it is the last one".to_owned())?;
            Ok(gone)
        };
        self.edit_seeds(now, cluster, Some(act), edit).await
    }

    /// A server registers itself as a seed. Tells whether it is new. It waits for the operator's
    /// approval, and changes nothing that the operator stands by.
    pub(crate) async fn register_seed(
        &self,
        now: UnixMs,
        cluster: &str,
        source: IpAddr,
        signed: SignedRegistration,
    ) -> Result<(SeedRow, bool), ServiceError> {
        let cluster = self.cluster(cluster)?;
        let (id, kind) = (cluster.id, cluster.kind);
        self.check_signatures(&cluster, now, &signed).await?;
        // Nobody without a token makes this server ask a resolver.
        let ips = lookup(&signed.registration.seed).await;
        let guarded = self.defences.stand(Defence::Owner);
        let Registration { seed, public_key, .. } = &signed.registration;
        let actor = Actor::seed(*public_key, source);
        let act = Act { actor, action: Action::SeedRegister, seed: seed.name.clone() };
        let name = cluster.name.clone();
        let _changing = self.changing.lock().await;
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                let token = signed.registration.token;
                let edit = |seeds: &mut Seeds| register(kind, seeds, signed, (&ips, source), guarded, now);
                let ((seed, is_new), news) = apply(tx, id, kind, now, edit).await?;
                act.record(tx, now, &name, &news).await?;
                let row = tokens::find(&mut *tx, id, &token).await?;
                let row = row.ok_or(ServiceError::BadToken("is not known here"))?;
                check_usable(&row, TokenScope::Seed, now, is_new)?;
                if is_new {
                    tokens::count_uses(tx, id, &token, 1).await?;
                }
                // Names of seeds and of nodes are of one kind.
                let name = seed.addr.name.as_str().parse::<NodeName>();
                let fits = |names: &NamePattern| name.is_ok_and(|name| names.matches(&name));
                if let Some(names) = row.names.filter(|names| !fits(names)) {
                    return Err(ServiceError::NameNotAllowed(names));
                }
                Ok::<_, ServiceError>((seed, is_new, news))
            })
        });
        let (seed, is_new, news) = stored.await?;
        // As it is now: what came before this change has been published.
        let cluster = self.cluster(cluster.name.as_str())?;
        self.publish(&cluster, &news);
        Ok((seed, is_new))
    }

    /// Whether seed and bearer of the token signed this, for this server, just now.
    async fn check_signatures(
        &self,
        cluster: &Cluster,
        now: UnixMs,
        signed: &SignedRegistration,
    ) -> Result<(), ServiceError> {
        let SignedRegistration { registration, by_seed, by_token } = signed;
        let skew_ms = i64::try_from(registration.issued_unix_ms).unwrap_or(i64::MAX).saturating_sub(now.0);
        if skew_ms.unsigned_abs() > MAX_SKEW_MS {
            return Err(ServiceError::Skew { skew_ms, now_unix_ms: now.0 });
        }
        if !registration.is_signed(by_seed) {
            return Err(ServiceError::BadRegistration("by the seed's key, for this server and cluster"));
        }
        let found =
            self.store.timed(tokens::find(self.store.reads(), cluster.id, &registration.token)).await?;
        let token = found.ok_or(ServiceError::BadToken("is not known here"))?;
        if !registration.is_signed_by_token(&token.public_key, by_token) {
            return Err(ServiceError::BadToken("does not fit the signature"));
        }
        Ok(())
    }

    /// Notes what came of asking a seed, if it is still what was asked.
    pub(crate) async fn note_seed_check(
        &self,
        now: UnixMs,
        cluster: &str,
        asked: SeedRow,
        checked: Checked,
    ) -> Result<(), ServiceError> {
        let kind = self.cluster(cluster)?.kind;
        let edit = move |seeds: &mut Seeds| {
            let Some(seed) = seeds.get(&asked.addr.name) else { return Ok(()) };
            let (place, key) = (is_same_place(&seed.addr, &asked.addr), seed.public_key == asked.public_key);
            if place && key {
                let row = noted(kind, seeds, seed, checked, now);
                seeds.insert(asked.addr.name, row);
            }
            Ok(())
        };
        self.edit_seeds(now, cluster, None, edit).await
    }

    /// Commits an edit, then publishes what follows from it.
    async fn edit_seeds<T, E>(
        &self,
        now: UnixMs,
        cluster: &str,
        act: Option<Act>,
        edit: E,
    ) -> Result<T, ServiceError>
    where
        E: FnOnce(&mut Seeds) -> Result<T, ServiceError> + Send + 'static,
        T: Send + 'static,
    {
        let _changing = self.changing.lock().await;
        let cluster = self.cluster(cluster)?;
        let (id, kind) = (cluster.id, cluster.kind);
        let name = cluster.name.clone();
        let stored = self.store.write(move |tx| {
            Box::pin(async move {
                let (value, news) = apply(tx, id, kind, now, edit).await?;
                if let Some(act) = act {
                    act.record(tx, now, &name, &news).await?;
                }
                Ok::<_, ServiceError>((value, news))
            })
        });
        let (value, news) = stored.await?;
        self.publish(&cluster, &news);
        Ok(value)
    }
}

fn put(
    kind: ClusterNetwork,
    seeds: &mut Seeds,
    new: NewSeed,
    ips: &[IpAddr],
    now: UnixMs,
) -> Result<(SeedRow, bool), ServiceError> {
    let NewSeed { addr, declared, public_key, approved } = new;
    check_address(seeds, &addr)?;
    let facts = check_seed(&addr, declared, ips)?;
    let before = seeds.get(&addr.name);
    let is_new = before.is_none();
    let mut row = fresh(addr, before, now);
    if public_key.is_some() && public_key != row.public_key {
        (row.public_key, row.status, row.reason, row.verified_ms) =
            (public_key, SeedStatus::Unverified, None, None);
    }
    row.declared = declared;
    row.is_public = facts.public;
    row.approved = approved;
    check_candidate(kind, seeds, &row, ips)?;
    seeds.insert(row.addr.name.clone(), row.clone());
    check_count(seeds)?;
    Ok((row, is_new))
}

fn register(
    kind: ClusterNetwork,
    seeds: &mut Seeds,
    signed: SignedRegistration,
    (ips, source): (&[IpAddr], IpAddr),
    guarded: bool,
    now: UnixMs,
) -> Result<(SeedRow, bool), ServiceError> {
    let Registration { seed: addr, declared, public_key, issued_unix_ms, .. } = signed.registration;
    let issued_ms = i64::try_from(issued_unix_ms).unwrap_or(i64::MAX);
    let before = seeds.get(&addr.name);
    let is_new = before.is_none();
    if let Some(known) = before.filter(|_| guarded) {
        if known.public_key != Some(public_key) {
            return Err(ServiceError::SeedNameTaken(addr.name));
        }
        if known.issued_ms.is_some_and(|last_ms| last_ms >= issued_ms) {
            return Err(ServiceError::StaleRegistration);
        }
        if known.approved || known.origin != SeedOrigin::Own {
            // It says what is known already, or what only the operator may say.
            if !is_same_place(&known.addr, &addr) || known.declared != declared {
                return Err(ServiceError::SeedApproved(addr.name));
            }
            let row = SeedRow { issued_ms: Some(issued_ms), ..known.clone() };
            seeds.insert(addr.name, row.clone());
            return Ok((row, false));
        }
    }
    check_address(seeds, &addr)?;
    let facts = check_seed(&addr, declared, ips)?;
    let mut row = fresh(addr, before, now);
    if row.public_key != Some(public_key) {
        (row.status, row.reason, row.verified_ms) = (SeedStatus::Unverified, None, None);
    }
    row.origin = SeedOrigin::Own;
    row.public_key = Some(public_key);
    row.declared = declared;
    row.is_public = facts.public;
    row.registered_from = Some(source);
    row.issued_ms = Some(issued_ms);
    check_candidate(kind, seeds, &row, ips)?;
    seeds.insert(row.addr.name.clone(), row.clone());
    check_count(seeds)?;
    Ok((row, is_new))
}

/// The row of a seed that was asked.
fn noted(kind: ClusterNetwork, seeds: &Seeds, seed: &SeedRow, checked: Checked, now: UnixMs) -> SeedRow {
    let mut row = seed.clone();
    (row.status, row.reason) = match checked {
        Checked::Proven { key, ips } => match check_found(kind, seeds, seed, &ips) {
            Ok(facts) => {
                row.is_public |= facts.public;
                row.public_key = Some(key);
                row.verified_ms = Some(now.0);
                (SeedStatus::Up, None)
            }
            Err(code) => (SeedStatus::Refused, Some(code)),
        },
        Checked::Failed { code, is_down: true } => (SeedStatus::Down, Some(code)),
        // One lost packet makes no seed less.
        Checked::Failed { code, is_down: false } => {
            (seed.status, Some(code).filter(|_| seed.status != SeedStatus::Up))
        }
        Checked::Refused(code) => (SeedStatus::Refused, Some(code)),
        Checked::NotAsked(code) => (SeedStatus::Unverified, Some(code)),
    };
    row
}

/// A host's addresses may have become others since it was registered.
fn check_found(
    kind: ClusterNetwork,
    seeds: &Seeds,
    seed: &SeedRow,
    ips: &[IpAddr],
) -> Result<SeedFacts, Code> {
    let facts = rules::seed_check(seed.declared, class(ips))?;
    let mut candidate = seeds.clone();
    let row = SeedRow { is_public: facts.public, approved: true, ..seed.clone() };
    candidate.insert(row.addr.name.clone(), row);
    effective(kind, &candidate)?;
    Ok(facts)
}

/// The seed's own check.
fn check_seed(
    seed: &SeedAddr,
    declared: Option<NetworkType>,
    ips: &[IpAddr],
) -> Result<SeedFacts, ServiceError> {
    let refused =
        |code| ServiceError::SeedRefused { seed: Box::new(seed.clone()), code, reason: describe(ips) };
    if ips.iter().any(|ip| meetpoint_proto::addr::classify(*ip) == AddressClass::Special) {
        return Err(refused(Code::SeedAddressRefused));
    }
    rules::seed_check(declared, class(ips)).map_err(refused)
}

/// The rules' word on the cluster with this seed in it. One that is not approved yet is judged as if
/// it were, since else it never could be.
fn check_candidate(
    kind: ClusterNetwork,
    seeds: &Seeds,
    row: &SeedRow,
    ips: &[IpAddr],
) -> Result<(), ServiceError> {
    let mut candidate = seeds.clone();
    candidate.insert(row.addr.name.clone(), SeedRow { approved: true, ..row.clone() });
    check_rules(kind, &candidate, &row.addr, || describe(ips))
}

/// Two seeds at one address are one server twice. Who is not approved keeps no address from others.
fn check_address(seeds: &Seeds, addr: &SeedAddr) -> Result<(), ServiceError> {
    let is_there =
        |seed: &&SeedRow| seed.approved && seed.addr.name != addr.name && is_same_place(&seed.addr, addr);
    match seeds.values().find(is_there) {
        Some(seed) => Err(ServiceError::SeedAddressTaken(seed.addr.name.clone())),
        None => Ok(()),
    }
}

fn check_count(seeds: &Seeds) -> Result<(), ServiceError> {
    let approved = seeds.values().filter(|seed| seed.approved).count();
    if approved > MAX_SEEDS || seeds.len() - approved > MAX_PENDING {
        return Err(ServiceError::TooManySeeds);
    }
    Ok(())
}

const fn network_word(is_public: bool) -> &'static str {
    if is_public { "it is public" } else { "it is not public" }
}

#[cfg(test)]
mod tests;
