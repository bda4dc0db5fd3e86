//! The certificate is read again when its files have changed: tools that renew certificates replace the files and
//! tell nobody. What an operator asks for is in [`crate::live`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Identity, ReloadError, Reloaded};
use crate::data_dir::DataDir;
use crate::secrets;

/// Between two looks at the files. A certificate is renewed days before it ends; this is short only so
/// that whoever replaces one by hand sees it taken.
const WATCH_INTERVAL: Duration = Duration::from_secs(30);

/// The task that keeps the certificate current.
pub(crate) struct Reloader {
    pub(crate) identity: Arc<Identity>,
    pub(crate) data: Arc<DataDir>,
}

impl Reloader {
    /// Works until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut looks = interval(WATCH_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let (identity, data) = (Arc::clone(&self.identity), Arc::clone(&self.data));
            // Files may lie on a disk that takes its time.
            let work = move || {
                if identity.is_outdated() {
                    tell(identity.reload(), &data);
                }
            };
            if tokio::task::spawn_blocking(work).await.is_err() {
                return;
            }
        }
    }
}

/// A refused pair is told once: the files have to change before they are read again.
fn tell(outcome: Result<Reloaded, ReloadError>, data: &DataDir) {
    match outcome {
        Ok(Reloaded::Same) => {}
        Ok(Reloaded::Renewed) => info!("the certificate was renewed; new connections get the new one"),
        Ok(reloaded @ Reloaded::Rekeyed { .. }) => repin(reloaded, data),
        Err(error) => error!(%error, "the certificate was not read again; the one in use stays"),
    }
}

/// After another key: says so, and writes it into the stored join token.
pub(crate) fn repin(reloaded: Reloaded, data: &DataDir) {
    let Reloaded::Rekeyed { before, after } = reloaded else { return };
    warn!(
        %before, %after,
        "the certificate was replaced by one with ANOTHER KEY: nodes whose join token carries the old \
         fingerprint refuse this server until they are given a new token"
    );
    if let Err(error) = secrets::repin_join_token(data, after) {
        error!(%error, "the stored join token still carries the old fingerprint");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::TlsFiles;

    fn write_cert(files: &TlsFiles, key: &rcgen::KeyPair) {
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // Each has a random serial number, so two of one key differ.
        std::fs::write(&files.cert, params.self_signed(key).unwrap().pem()).unwrap();
    }

    fn write_pair(dir: &Path) -> (TlsFiles, rcgen::KeyPair) {
        let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
        let key = rcgen::KeyPair::generate().unwrap();
        write_cert(&files, &key);
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        (files, key)
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (files, key) = write_pair(dir.path());
        let identity = Identity::load(&files).unwrap();
        let before = identity.fingerprint();
        let refused = |part: &str| {
            let error = identity.reload().unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} is not in: {error}");
            assert_eq!(identity.fingerprint(), before);
        };
        assert_eq!(identity.reload().unwrap(), Reloaded::Same);
        write_cert(&files, &key);
        assert_eq!(identity.reload().unwrap(), Reloaded::Renewed);
        let other = rcgen::KeyPair::generate().unwrap();
        write_cert(&files, &other);
        refused("cert.pem: does not fit the key");
        std::fs::write(&files.cert, "").unwrap();
        refused("cert.pem: not a PEM certificate");
        std::fs::remove_file(&files.cert).unwrap();
        refused("cert.pem: No such file");
        write_cert(&files, &other);
        std::fs::write(&files.key, "no key").unwrap();
        refused("key.pem: not a PEM private key");
        std::fs::write(&files.key, other.serialize_pem()).unwrap();
        let after = match identity.reload().unwrap() {
            Reloaded::Rekeyed { before: old, after } if old == before => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(identity.fingerprint(), after);
        assert_ne!(after, before);
    }

    /// Nobody tells that the files have changed. The clock jumps whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn changed_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = write_pair(dir.path());
        let identity = Arc::new(Identity::load(&files).unwrap());
        let data = Arc::new(DataDir::open(&dir.path().join("data")).unwrap());
        let stop = CancellationToken::new();
        let reloader = Reloader { identity: Arc::clone(&identity), data };
        let running = tokio::spawn(reloader.run(stop.clone()));
        let before = identity.fingerprint();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let changed = tokio::time::Instant::now();
        // Half of a pair is refused, and the whole is taken once it is there.
        let other = rcgen::KeyPair::generate().unwrap();
        write_cert(&files, &other);
        tokio::time::sleep(WATCH_INTERVAL).await;
        assert_eq!(identity.fingerprint(), before);
        std::fs::write(&files.key, other.serialize_pem()).unwrap();
        while identity.fingerprint() == before {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(changed.elapsed() < 3 * WATCH_INTERVAL);
        }
        stop.cancel();
        running.await.unwrap();
    }
}
