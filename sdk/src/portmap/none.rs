//! Asks no router for a port: the feature `portmap` is off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::egress::Egress;

/// See the module.
#[derive(Debug)]
pub(crate) struct PortMap;

impl PortMap {
    pub(crate) fn new(_port: u16, _lease: Duration, _egress: Arc<Egress>) -> (Self, std::future::Ready<()>) {
        (Self, std::future::ready(()))
    }

    #[allow(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn want(&self, _wanted: bool) {}

    #[allow(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn look_again(&self) {}

    pub(crate) async fn changed(&mut self) -> Option<SocketAddr> {
        std::future::pending().await
    }
}
