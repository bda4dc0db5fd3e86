//! `--announce`: the server tells its LAN that it is there.

use meetpoint::sources::{Announcement, Announcer};
use meetpoint_server::Info;
use tokio::task::JoinSet;

use crate::args::{AnnounceArgs, AnnounceBy};

/// What each server offers to whoever may use it.
const CAPABILITIES: [&str; 3] = ["rendezvous", "stun", "turn"];

/// Announces in the background, until what is returned is dropped. A LAN that can't be told is no reason not to serve.
pub(super) fn start(args: &AnnounceArgs, info: &Info) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let announcement =
        Announcement::new(info.fingerprint.to_string(), args.announce_name.as_str(), info.http.port())
            .capabilities(CAPABILITIES.map(str::to_owned));
    let mut announcer =
        Announcer::new(announcement).group(args.announce_group).interval(args.announce_interval);
    if !info.http.ip().is_unspecified() {
        announcer = announcer.only(info.http.ip());
    }
    for by in &args.announce {
        let (announcer, by) = (announcer.clone(), *by);
        tasks.spawn(async move {
            // Neither ends but by an error.
            let Err(error) = match by {
                AnnounceBy::Mdns => announcer.mdns().await,
                AnnounceBy::Multicast => announcer.multicast().await,
            };
            tracing::warn!(?by, %error, "not announced");
        });
    }
    tasks
}
