//! The tokens of the REST interface: the operator's, and the one that lets others look on.
//!
//! Each lies in a file: in the data directory, where the server has made it, or where a flag says. Either can
//! be replaced while it is in use. A request makes another one, and the one before stays good for a while, so
//! that whoever else uses it can be given the new one; or the operator writes the file and has it read again,
//! and then what the file says is all that counts. What was opened by a token, an event stream for example,
//! goes on in both cases.
//!
//! Only digests are held here, and of a replaced token nothing else is kept anywhere. The audit log has an
//! entry before anything is replaced, so nothing is replaced without one.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use meetpoint_proto::id::Fingerprint;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tracing::info;

use crate::config::{ConfigError, GivenToken, MIN_ADMIN_TOKEN_LEN, Secret, ServeConfig, read_api_token};
use crate::data_dir::{DataDir, DataError};
use crate::secrets::{SecretsError, random};
use crate::service::{Action, Actor, Service, ServiceError, UnixMs};
use crate::store::StoreError;

/// Random bytes of a token: 160 bits, in as few characters as a person can copy.
const RANDOM_LEN: usize = 20;

/// Those files of the data directory that a backup holds.
pub(crate) const FILES: [&str; 4] =
    [Role::Admin.file(), Role::Viewer.file(), Role::Admin.file_before(), Role::Viewer.file_before()];

/// What a token lets do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Reading.
    Viewer,
}

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Admin, Self::Viewer];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Admin => Self::Viewer,
            Self::Viewer => Self::Admin,
        }
    }

    /// In the data directory.
    const fn file(self) -> &'static str {
        match self {
            Self::Admin => "admin-token",
            Self::Viewer => "viewer-token",
        }
    }

    /// In the data directory: the digest of the token before, and until when it is good.
    const fn file_before(self) -> &'static str {
        match self {
            Self::Admin => "admin-token.before",
            Self::Viewer => "viewer-token.before",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Admin => "--admin-token-file",
            Self::Viewer => "--viewer-token-file",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Admin => "mpa1",
            Self::Viewer => "mpv1",
        }
    }

    fn mint(self) -> Result<String, getrandom::Error> {
        let id = Fingerprint::from_bytes(random()?).to_string();
        Ok(format!("{}{}", self.prefix(), &id[..RANDOM_LEN * 8 / 5]))
    }
}

#[derive(Debug, Clone, Copy)]
struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// In constant time: digests have one length, and their comparison does not stop early.
    fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// The token before, which is good for a while.
#[derive(Debug, Clone, Copy)]
struct Before {
    digest: TokenDigest,
    until_ms: i64,
}

impl Before {
    fn parse(text: &str) -> Option<Self> {
        let (digest, until) = text.split_once(' ')?;
        let digest: Fingerprint = digest.parse().ok()?;
        Some(Self { digest: TokenDigest(*digest.as_bytes()), until_ms: until.parse().ok()? })
    }

    fn text(&self) -> String {
        format!("{} {}\n", Fingerprint::from_bytes(self.digest.0), self.until_ms)
    }
}

/// Where a token comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The data directory: the server may write it.
    Data,
    /// A file that a flag names: the operator writes it.
    File(PathBuf),
    /// A flag or the environment. It lasts as long as the process.
    Flag,
}

#[derive(Debug, Clone)]
struct Held {
    source: Source,
    digest: TokenDigest,
    before: Option<Before>,
}

impl Held {
    fn before(&self, now: UnixMs) -> Option<Before> {
        self.before.filter(|before| now.0 < before.until_ms)
    }

    fn is(&self, now: UnixMs, presented: TokenDigest) -> bool {
        let is_before = self.before(now).is_some_and(|before| before.digest.is(presented));
        self.digest.is(presented) || is_before
    }
}

/// A token as it may be shown.
pub(crate) struct TokenView {
    pub(crate) role: Role,
    pub(crate) source: Source,
    pub(crate) before_until_ms: Option<i64>,
}

/// A token that was just made.
pub(crate) struct Replacement {
    pub(crate) value: String,
    pub(crate) before_until_ms: Option<i64>,
}

/// Why a token was not read again. The one in use stays.
#[derive(Debug, Error)]
pub(crate) enum RereadError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0} in the data directory is gone")]
    Missing(&'static str),
    #[error("the audit log does not take it: {0}")]
    Service(#[from] ServiceError),
}

impl From<DataError> for RereadError {
    fn from(error: DataError) -> Self {
        Self::Secrets(error.into())
    }
}

/// The tokens of the REST interface.
pub(crate) struct ApiTokens {
    data: Arc<DataDir>,
    admin: RwLock<Held>,
    viewer: RwLock<Held>,
    /// Held during each change, so that files and memory say the same.
    changing: tokio::sync::Mutex<()>,
}

impl ApiTokens {
    /// Both, and the admin token if it is a new one.
    pub(crate) fn establish(
        config: &ServeConfig,
        data: &Arc<DataDir>,
    ) -> Result<(Self, Option<Secret>), SecretsError> {
        let (admin, made) = establish(Role::Admin, config.admin_token.as_ref(), data)?;
        let (viewer, _) = establish(Role::Viewer, config.viewer_token.as_ref(), data)?;
        if admin.digest.is(viewer.digest) {
            return Err(SecretsError::SameToken);
        }
        let (data, admin, viewer) = (Arc::clone(data), RwLock::new(admin), RwLock::new(viewer));
        Ok((Self { data, admin, viewer, changing: tokio::sync::Mutex::default() }, made))
    }

    /// What somebody may do who presents this.
    pub(crate) fn role_of(&self, now: UnixMs, presented: &str) -> Option<Role> {
        let presented = TokenDigest::of(presented);
        Role::ALL.into_iter().find(|role| self.held(*role).is(now, presented))
    }

    /// Both, without what they say.
    pub(crate) fn views(&self, now: UnixMs) -> [TokenView; 2] {
        Role::ALL.map(|role| {
            let held = self.held(role);
            let before_until_ms = held.before(now).map(|before| before.until_ms);
            TokenView { role, source: held.source, before_until_ms }
        })
    }

    /// Makes another token; the one in use is good for `overlap_ms` more, and the one before it no longer.
    pub(crate) async fn replace(
        &self,
        service: &Service,
        now: UnixMs,
        actor: &Actor,
        role: Role,
        overlap_ms: i64,
    ) -> Result<Replacement, ServiceError> {
        let _changing = self.changing.lock().await;
        let held = self.held(role);
        if !matches!(held.source, Source::Data) {
            return Err(ServiceError::GivenToken(role.flag()));
        }
        let value = role.mint()?;
        let until_ms = now.0.saturating_add(overlap_ms);
        let before = (overlap_ms > 0).then_some(Before { digest: held.digest, until_ms });
        let before_until_ms = before.map(|before| before.until_ms);
        let detail = json!({ "by": "request", "before_until_unix_ms": before_until_ms });
        service.note(now, *actor, Action::ApiTokenReplace, role.as_str().to_owned(), detail).await?;
        self.write(role, Some(value.clone()), before).await?;
        self.set(role, |held| Held { digest: TokenDigest::of(&value), before, ..held });
        Ok(Replacement { value, before_until_ms })
    }

    /// Ends the token before at once.
    pub(crate) async fn drop_before(
        &self,
        service: &Service,
        now: UnixMs,
        actor: &Actor,
        role: Role,
    ) -> Result<(), ServiceError> {
        let _changing = self.changing.lock().await;
        if self.held(role).before(now).is_none() {
            return Err(ServiceError::NoTokenBefore);
        }
        service.note(now, *actor, Action::ApiTokenDrop, role.as_str().to_owned(), json!({})).await?;
        self.write(role, None, None).await?;
        self.set(role, |held| Held { before: None, ..held });
        Ok(())
    }

    /// Reads the files again. Those that were replaced by it.
    pub(crate) async fn reread_all(
        &self,
        service: &Service,
        now: UnixMs,
    ) -> Result<Vec<&'static str>, RereadError> {
        let mut replaced = Vec::new();
        for role in Role::ALL {
            if self.reread(service, now, role).await? {
                info!(role = role.as_str(), "the token was replaced by its file");
                replaced.push(role.as_str());
            }
        }
        Ok(replaced)
    }

    /// Whether [`Self::reread_all`] would take what the files hold.
    pub(crate) fn check(&self) -> Result<(), RereadError> {
        let mut digests = Vec::new();
        for role in Role::ALL {
            let held = self.held(role);
            digests.push(self.read_again(role, &held)?.map_or(held.digest, |text| TokenDigest::of(&text)));
        }
        match digests[..] {
            [admin, viewer] if admin.is(viewer) => Err(SecretsError::SameToken.into()),
            _ => Ok(()),
        }
    }

    /// What a token's file says, if it has one.
    fn read_again(&self, role: Role, held: &Held) -> Result<Option<String>, RereadError> {
        Ok(match &held.source {
            Source::Data => {
                let text = self.data.read(role.file())?;
                Some(checked(role, text.ok_or(RereadError::Missing(role.file()))?)?)
            }
            Source::File(path) => Some(read_api_token(role.flag(), path)?.reveal().to_owned()),
            Source::Flag => None,
        })
    }

    /// Whether the file says something new.
    async fn reread(&self, service: &Service, now: UnixMs, role: Role) -> Result<bool, RereadError> {
        let _changing = self.changing.lock().await;
        let held = self.held(role);
        let Some(text) = self.read_again(role, &held)? else { return Ok(false) };
        let digest = TokenDigest::of(&text);
        if held.digest.is(digest) {
            return Ok(false);
        }
        if self.held(role.other()).is(now, digest) {
            return Err(SecretsError::SameToken.into());
        }
        let (target, detail) = (role.as_str().to_owned(), json!({ "by": "file" }));
        service.note(now, Actor::SERVER, Action::ApiTokenReplace, target, detail).await?;
        if matches!(held.source, Source::Data) {
            self.write(role, None, None).await?;
        }
        self.set(role, |held| Held { digest, before: None, ..held });
        Ok(true)
    }

    /// Puts it into the data directory: first what is kept of the one before, so that a crash between the two
    /// leaves it valid.
    async fn write(
        &self,
        role: Role,
        token: Option<String>,
        before: Option<Before>,
    ) -> Result<(), ServiceError> {
        let data = Arc::clone(&self.data);
        let work = move || -> Result<(), SecretsError> {
            match before {
                Some(before) => data.write_secret(role.file_before(), &before.text())?,
                None => data.remove(role.file_before())?,
            }
            match token {
                Some(token) => Ok(data.write_secret(role.file(), &format!("{token}\n"))?),
                None => Ok(()),
            }
        };
        let written = tokio::task::spawn_blocking(work).await;
        written.map_err(|_| StoreError::Closed)?.map_err(ServiceError::ApiTokenFile)
    }

    fn slot(&self, role: Role) -> &RwLock<Held> {
        match role {
            Role::Admin => &self.admin,
            Role::Viewer => &self.viewer,
        }
    }

    fn held(&self, role: Role) -> Held {
        self.slot(role).read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, role: Role, change: impl FnOnce(Held) -> Held) {
        let mut held = self.slot(role).write().unwrap_or_else(PoisonError::into_inner);
        *held = change(held.clone());
    }
}

/// The token given, the one stored, or a new one, which is stored and returned.
fn establish(
    role: Role,
    given: Option<&GivenToken>,
    data: &DataDir,
) -> Result<(Held, Option<Secret>), SecretsError> {
    if let Some(GivenToken { secret, file }) = given {
        let source = file.clone().map_or(Source::Flag, Source::File);
        return Ok((Held { source, digest: TokenDigest::of(secret.reveal()), before: None }, None));
    }
    let before = data.read(role.file_before())?.map(|text| {
        let damaged = || SecretsError::TokenBefore { file: role.file_before() };
        Before::parse(&text).ok_or_else(damaged)
    });
    let before = before.transpose()?;
    let held = |text: &str| Held { source: Source::Data, digest: TokenDigest::of(text), before };
    if let Some(stored) = data.read(role.file())? {
        return Ok((held(&checked(role, stored)?), None));
    }
    let text = role.mint()?;
    data.write_secret(role.file(), &format!("{text}\n"))?;
    let made = text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    Ok((held(&text), Some(made)))
}

fn checked(role: Role, text: String) -> Result<String, SecretsError> {
    if text.len() < MIN_ADMIN_TOKEN_LEN {
        return Err(SecretsError::ApiToken { file: role.file() });
    }
    Ok(text)
}
