//! By PCP, and by NAT-PMP where the router knows only that.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp, pcp,
};
use thiserror::Error;

use crate::interfaces;

/// A router is a hop away, and answers in milliseconds or not at all.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(1)),
};

/// Why there is no mapping.
#[derive(Debug, Error)]
pub(super) enum PmpError {
    /// The node has no port to map, or no address towards the router.
    #[error("nothing to map")]
    Nothing,
    /// The router refuses, or there is none that answers.
    #[error(transparent)]
    Mapping(#[from] MappingFailure),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    mapping: PortMapping,
    external: IpAddr,
}

impl Lease {
    /// Asks for a mapping, at best of the same number.
    pub(super) async fn ask(gateway: IpAddr, port: u16, lifetime: Duration) -> Result<Self, PmpError> {
        let port = NonZeroU16::new(port).ok_or(PmpError::Nothing)?;
        let towards = SocketAddr::new(gateway, crab_nat::GATEWAY_PORT);
        let client = interfaces::source_towards(towards).ok_or(PmpError::Nothing)?;
        let gateway = GatewayAddress::from(gateway);
        let options = PortMappingOptions {
            external_port: Some(port),
            lifetime_seconds: u32::try_from(lifetime.as_secs()).ok(),
            timeout_config: Some(TIMING),
        };
        let mapping = PortMapping::new(gateway, client, InternetProtocol::Udp, port, options).await;
        let mapping = match mapping {
            // Many routers answer PCP with nothing but their own version, and some with nothing at all.
            Err(MappingFailure::Pcp(pcp::Failure::UnsupportedVersion(_) | pcp::Failure::Timeout)) => {
                natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options)
                    .await
                    .map_err(MappingFailure::from)?
            }
            other => other?,
        };
        let external = external_ip(&mapping).await?;
        Ok(Self { mapping, external })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.external, self.mapping.external_port().get())
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.mapping.lifetime().into())
    }

    pub(super) async fn renew(&mut self) -> Result<(), PmpError> {
        self.mapping.renew().await?;
        self.external = external_ip(&self.mapping).await?;
        Ok(())
    }

    pub(super) async fn remove(self) -> Result<(), PmpError> {
        self.mapping.try_drop().await.map_err(|(error, _)| error.into())
    }
}

async fn external_ip(mapping: &PortMapping) -> Result<IpAddr, MappingFailure> {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok(external_ip.to_canonical()),
        PortMappingType::NatPmp => {
            Ok(natpmp::external_address(mapping.gateway(), Some(TIMING)).await?.into())
        }
    }
}
