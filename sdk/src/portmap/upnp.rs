//! By UPnP: a router of the Internet Gateway Device family.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddAnyPortError, AddPortError, GetExternalIpError, PortMappingProtocol, RemovePortError, SearchError,
    SearchOptions,
};
use thiserror::Error;

use crate::interfaces;

/// What the router shows its owner.
const DESCRIPTION: &str = "meetpoint";
/// A router that knows only leases without an end is asked for one, which is renewed all the same: routers forget.
const PERMANENT: u32 = 0;
/// How long devices of the LAN have to answer.
const SEARCH: Duration = Duration::from_secs(4);

/// Why there is no mapping.
#[derive(Debug, Error)]
pub(super) enum UpnpError {
    /// No router answered.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// Something of the LAN answered that is not the machine's router.
    #[error("{0} says that it is the router, and is not")]
    Stranger(IpAddr),
    /// The node has no address towards the router.
    #[error("nothing to map")]
    Nothing,
    /// The router does not know its own address.
    #[error(transparent)]
    External(#[from] GetExternalIpError),
    /// The router refuses.
    #[error(transparent)]
    Add(#[from] AddPortError),
    /// The router refuses any port.
    #[error(transparent)]
    AddAny(#[from] AddAnyPortError),
    /// The router does not take it back.
    #[error(transparent)]
    Remove(#[from] RemovePortError),
}

/// A router that has answered.
#[derive(Debug)]
pub(super) struct Router {
    gateway: Gateway<Tokio>,
    local: IpAddr,
    external: IpAddr,
}

impl Router {
    /// Looks for the machine's router. What else answers is not talked to further, if it is known which one that is.
    pub(super) async fn find(expected: Option<IpAddr>) -> Result<Self, UpnpError> {
        let mut options = SearchOptions::default();
        let local = expected.and_then(|gateway| interfaces::source_towards(SocketAddr::new(gateway, 1900)));
        options.bind_addr = SocketAddr::new(local.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0);
        options.timeout = Some(SEARCH);
        let gateway = search_gateway(options).await?;
        let router = gateway.addr.ip();
        if expected.is_some_and(|expected| expected != router) {
            return Err(UpnpError::Stranger(router));
        }
        let local = interfaces::source_towards(gateway.addr).ok_or(UpnpError::Nothing)?;
        let external = gateway.get_external_ip().await?;
        Ok(Self { gateway, local, external })
    }

    /// Has it map a port, at best of the same number.
    pub(super) async fn map(self, port: u16, lifetime: Duration) -> Result<Lease, UpnpError> {
        let lease_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let mut lease = Lease { router: self, internal: port, port, lease_s, lifetime };
        match lease.add().await {
            Err(AddPortError::PortInUse) => {
                let Lease { router: Router { gateway, local, .. }, lease_s, .. } = &lease;
                let local = SocketAddr::new(*local, port);
                let added =
                    gateway.add_any_port(PortMappingProtocol::UDP, local, *lease_s, DESCRIPTION).await;
                lease.port = added?;
            }
            added => added?,
        }
        Ok(lease)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    router: Router,
    internal: u16,
    port: u16,
    lease_s: u32,
    lifetime: Duration,
}

impl Lease {
    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.router.external, self.port)
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(super) async fn renew(&mut self) -> Result<(), UpnpError> {
        self.router.external = self.router.gateway.get_external_ip().await?;
        Ok(self.add().await?)
    }

    pub(super) async fn remove(self) -> Result<(), UpnpError> {
        Ok(self.router.gateway.remove_port(PortMappingProtocol::UDP, self.port).await?)
    }

    async fn add(&mut self) -> Result<(), AddPortError> {
        let local = SocketAddr::new(self.router.local, self.internal);
        let add = |lease_s| {
            self.router.gateway.add_port(PortMappingProtocol::UDP, self.port, local, lease_s, DESCRIPTION)
        };
        match add(self.lease_s).await {
            Err(AddPortError::OnlyPermanentLeasesSupported) => {
                add(PERMANENT).await?;
                self.lease_s = PERMANENT;
                Ok(())
            }
            added => added,
        }
    }
}
