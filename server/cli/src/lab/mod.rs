//! The NAT lab: real NATs of every kind on one Linux machine.
//!
//! A [`Lab`] is a small internet made of network namespaces. In its middle lies a switch that carries the public
//! network `20.0.0.0/24`; on it sit a public host with two addresses (a rendezvous server needs two to tell mapping
//! from filtering) and any number of [`Gateway`]s, each with a LAN of its own behind an nftables rule set that makes
//! the kernel behave like one [`NatKind`]. The addresses look public on purpose: software that treats reserved ranges
//! correctly must treat these as the internet. There is no uplink, so nothing leaves the machine.
//!
//! Nothing here is taken on trust. [`probe::measure`] finds out with plain UDP sockets what a gateway really does, and
//! [`punch::attempt`] finds out which pairs can really meet; both share no code with the product they judge.
//!
//! A lab removes itself when dropped, with every process still running inside it. What a killed process leaves behind
//! is swept away by the next lab. Labs side by side have different names, in containers that share them too.
//!
//! Between the public addresses of two sites lies one hop: what has no time to live left for it does not arrive. The
//! lab does not emulate latency or loss, and knows nothing of Meetpoint: it runs any program.

mod host;
mod ipv6;
mod namespace;
mod nat;
mod portal;
pub mod probe;
mod process;
pub mod punch;
mod tools;
mod wiring;

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use host::Host;
pub use ipv6::SERVER_ADDRS_V6;
pub use nat::NatKind;
pub use process::{Process, ProcessError};

use namespace::{Claim, Namespace};
use portal::Portal;
use tools::Tools;
use wiring::{DefaultRoute, Plug};

/// The device by which a machine is on the public network.
const PUBLIC_DEVICE: &str = wiring::WAN;

/// The public addresses of the server host: the primary, and the alternate that RFC 5780 asks for.
pub const SERVER_ADDRS: [Ipv4Addr; 2] = [Ipv4Addr::new(20, 0, 0, 1), Ipv4Addr::new(20, 0, 0, 2)];

/// Gateways and open hosts of one lab. The n-th has the public address `20.0.0.(10 + n)`, which must stay below 255.
pub const MAX_SITES: u8 = 240;

/// Hosts behind one gateway: `10.0.n.2` to `10.0.n.254`.
pub const MAX_HOSTS_PER_GATEWAY: u8 = 253;

/// What the last byte of a site's public address exceeds its number by; lower ones belong to the server.
const SITE_BASE: u8 = 10;

/// The router has number 1 on its LAN.
const FIRST_LAN_HOST: u8 = 2;

/// Why a lab could not be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The process may not create network namespaces because it is not root.
    #[error("the NAT lab needs root to create network namespaces: run it with sudo")]
    NotRoot,
    /// A program the lab drives is not installed.
    #[error("the NAT lab needs `{tool}`: on Debian, apt-get install {package}")]
    MissingTool {
        /// The program that was not found.
        tool: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// The process is root, but of a container that may not create namespaces.
    #[error(
        "the kernel refuses to create a network namespace ({reason}): in a container, run it with --privileged"
    )]
    Refused {
        /// What the refusing program said.
        reason: String,
    },
    /// `ip` or `nft` failed. Whatever was already built goes away with the lab.
    #[error("`{command}` failed: {reason}")]
    Tool {
        /// The command line.
        command: String,
        /// What it wrote to its standard error, or why it did not start.
        reason: String,
    },
    /// A namespace could not be entered or set up; it is gone if its lab was dropped.
    #[error("namespace {namespace}: {reason}")]
    Namespace {
        /// The name of the namespace.
        namespace: String,
        /// What went wrong.
        reason: String,
    },
    /// The address plan has no room for one more.
    #[error("the lab is full: at most {limit} {what}")]
    Full {
        /// What there is no more room for.
        what: &'static str,
        /// How many fit.
        limit: u8,
    },
}

impl LabError {
    fn namespace(namespace: &str, what: &str, error: &dyn Display) -> Self {
        Self::Namespace { namespace: namespace.to_owned(), reason: format!("{what}: {error}") }
    }

    /// Whether this machine, as it is, cannot run any lab at all (a test may then be skipped), as opposed to a lab
    /// that went wrong (a test must then fail).
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotRoot | Self::MissingTool { .. } | Self::Refused { .. })
    }
}

/// A small internet on this machine; see the module's text. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    tools: Arc<Tools>,
    switch: String,
    server: Host,
    sites: u8,
    /// Whatever has a place on the public network, and the device it is there by.
    public: Vec<(Host, &'static str)>,
    /// Of the routers that map ports; before the namespaces that they are in.
    portals: Vec<Portal>,
    /// Owns every namespace of the lab, in the order of creation.
    namespaces: Vec<Namespace>,
    /// After the namespaces, which are named by it.
    claim: Claim,
}

/// A NAT router: one address on the public network, one LAN behind it.
#[derive(Debug)]
pub struct Gateway {
    namespace: String,
    kind: NatKind,
    site: u8,
    hosts: u8,
}

/// One of the ways of a host that has two.
#[derive(Debug, Clone, Copy)]
pub struct Uplink {
    device: &'static str,
    router: Ipv4Addr,
}

impl Gateway {
    /// What its hosts reach the world by, before they are given another uplink.
    #[must_use]
    pub const fn uplink(&self) -> Uplink {
        Uplink { device: wiring::WAN, router: lan_addr(self.site, 1) }
    }

    /// The address under which the world sees the hosts behind this gateway.
    #[must_use]
    pub const fn addr(&self) -> Ipv4Addr {
        public_addr(self.site)
    }

    /// What this gateway does to UDP.
    #[must_use]
    pub const fn kind(&self) -> NatKind {
        self.kind
    }
}

const fn public_addr(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(20, 0, 0, SITE_BASE + site)
}

const fn lan_addr(site: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, site, number)
}

/// An address of the segment between a home router and its carrier's NAT, from the shared space of RFC 6598.
const fn carrier_addr(site: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, site, number)
}

impl Lab {
    /// Builds the public network and its server host, after removing what dead processes left behind.
    ///
    /// # Errors
    ///
    /// [`LabError::NotRoot`], [`LabError::MissingTool`] and [`LabError::Refused`] say what the machine lacks; every
    /// other error is a lab that went wrong. Nothing is left behind.
    pub fn new() -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let tools = Arc::new(Tools::find()?);
        let claim = Claim::new()?;
        let switch = Namespace::create(&tools, &claim, "switch")?;
        let server = Namespace::create(&tools, &claim, "server")?;
        let mut lab = Self {
            switch: switch.name().to_owned(),
            server: Host::new(&tools, server.name(), SERVER_ADDRS[0], SERVER_ADDRS[0]),
            portals: Vec::new(),
            namespaces: vec![switch, server],
            public: Vec::new(),
            sites: 0,
            tools,
            claim,
        };
        wiring::add_bridge(&lab.tools, &lab.switch, wiring::SWITCH_BRIDGE)?;
        let server = lab.server.namespace().to_owned();
        lab.plug_into_switch(&server, "server", &SERVER_ADDRS)?;
        Ok(lab)
    }

    /// The public host with the two addresses of [`SERVER_ADDRS`].
    #[must_use]
    pub const fn server(&self) -> &Host {
        &self.server
    }

    /// The machine that is the public network: it has a device for each machine there, all of them ports of one bridge.
    /// Something else may take the bridge's place, for example something slower.
    #[must_use]
    pub fn switch(&self) -> Host {
        Host::new(&self.tools, &self.switch, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED)
    }

    /// The machines on the public network, which are the server, routers, and open hosts, each with its device there.
    #[must_use]
    pub fn public_machines(&self) -> &[(Host, &'static str)] {
        &self.public
    }

    /// A new host behind a gateway of its own, or, for [`NatKind::Open`], directly on the public network.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn node(&mut self, kind: NatKind) -> Result<Host, LabError> {
        if kind != NatKind::Open {
            let mut gateway = self.gateway(kind)?;
            return self.host_behind(&mut gateway);
        }
        let site = self.next_site()?;
        let addr = public_addr(site);
        let name = self.add_namespace(&format!("open{site}"))?;
        self.plug_into_switch(&name, &format!("site{site}"), &[addr])?;
        Ok(Host::new(&self.tools, &name, addr, addr))
    }

    /// A new router on the public network, with a LAN that is still empty. One of [`NatKind::Open`] has nothing to
    /// translate and passes nothing: its hosts reach each other and nobody else.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn gateway(&mut self, kind: NatKind) -> Result<Gateway, LabError> {
        let site = self.next_site()?;
        let mut namespace = self.add_namespace(&format!("router{site}"))?;
        self.plug_into_switch(&namespace, &format!("site{site}"), &[public_addr(site)])?;
        wiring::make_router(&self.tools, &namespace, &kind.rules(public_addr(site)))?;
        if kind == NatKind::DoubleNat {
            namespace = self.home_router(site, kind, &namespace)?;
        }
        wiring::add_bridge(&self.tools, &namespace, wiring::LAN)?;
        wiring::add_addr(&self.tools, &namespace, wiring::LAN, lan_addr(site, 1))?;
        if let Some(protocol) = kind.portal() {
            self.portals.push(Portal::start(&self.tools, &namespace, protocol)?);
        }
        Ok(Gateway { namespace, kind, site, hosts: 0 })
    }

    /// One more host behind a gateway of this lab.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn host_behind(&mut self, gateway: &mut Gateway) -> Result<Host, LabError> {
        if gateway.hosts == MAX_HOSTS_PER_GATEWAY {
            return Err(LabError::Full { what: "hosts behind one gateway", limit: MAX_HOSTS_PER_GATEWAY });
        }
        let number = FIRST_LAN_HOST + gateway.hosts;
        gateway.hosts += 1;
        let addr = lan_addr(gateway.site, number);
        let name = self.add_namespace(&format!("host{}x{number}", gateway.site))?;
        wiring::connect(
            &self.tools,
            &Plug { namespace: &gateway.namespace, device: &format!("port{number}") },
            &Plug { namespace: &name, device: wiring::WAN },
            Some(wiring::LAN),
        )?;
        wiring::configure(&self.tools, &name, &[addr], DefaultRoute::Via(lan_addr(gateway.site, 1)))?;
        wiring::await_link(&name, &gateway.namespace, lan_addr(gateway.site, 1))?;
        Ok(Host::new(&self.tools, &name, addr, gateway.addr()))
    }

    /// One more uplink for a host: a cable to another gateway's LAN, with an address there. What the host sends to the
    /// world goes by its first gateway, until [`Lab::switch_uplink`] says otherwise.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn second_uplink(&mut self, host: &Host, gateway: &mut Gateway) -> Result<Uplink, LabError> {
        if gateway.hosts == MAX_HOSTS_PER_GATEWAY {
            return Err(LabError::Full { what: "hosts behind one gateway", limit: MAX_HOSTS_PER_GATEWAY });
        }
        let number = FIRST_LAN_HOST + gateway.hosts;
        gateway.hosts += 1;
        wiring::connect(
            &self.tools,
            &Plug { namespace: &gateway.namespace, device: &format!("port{number}") },
            &Plug { namespace: host.namespace(), device: wiring::SECOND_WAN },
            Some(wiring::LAN),
        )?;
        wiring::add_addr(&self.tools, host.namespace(), wiring::SECOND_WAN, lan_addr(gateway.site, number))?;
        wiring::await_link(host.namespace(), &gateway.namespace, lan_addr(gateway.site, 1))?;
        Ok(Uplink { device: wiring::SECOND_WAN, router: lan_addr(gateway.site, 1) })
    }

    /// Pulls one uplink of a host out, and has all that goes to the world go by the other one. The one pulled out
    /// before is plugged in again.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn switch_uplink(&self, host: &Host, from: Uplink, to: Uplink) -> Result<(), LabError> {
        let (gone, device, router) = (from.device, to.device, to.router);
        let batch =
            format!("link set {device} up\nlink set {gone} down\nroute replace default via {router}\n");
        self.tools.ip(Some(host.namespace()), &batch)
    }

    /// A gateway's router as a machine of its own, for what a test has to add to it.
    #[must_use]
    pub fn router(&self, gateway: &Gateway) -> Host {
        Host::new(&self.tools, &gateway.namespace, lan_addr(gateway.site, 1), gateway.addr())
    }

    /// The subscriber's own router, behind the carrier's.
    fn home_router(&mut self, site: u8, kind: NatKind, carrier: &str) -> Result<String, LabError> {
        let home = self.add_namespace(&format!("home{site}"))?;
        wiring::connect(
            &self.tools,
            &Plug { namespace: carrier, device: wiring::LAN },
            &Plug { namespace: &home, device: wiring::WAN },
            None,
        )?;
        wiring::add_addr(&self.tools, carrier, wiring::LAN, carrier_addr(site, 1))?;
        wiring::configure(
            &self.tools,
            &home,
            &[carrier_addr(site, 2)],
            DefaultRoute::Via(carrier_addr(site, 1)),
        )?;
        wiring::await_link(&home, carrier, carrier_addr(site, 1))?;
        wiring::make_router(&self.tools, &home, &kind.rules(carrier_addr(site, 2)))?;
        Ok(home)
    }

    fn next_site(&mut self) -> Result<u8, LabError> {
        if self.sites == MAX_SITES {
            return Err(LabError::Full { what: "gateways and open hosts", limit: MAX_SITES });
        }
        self.sites += 1;
        Ok(self.sites)
    }

    fn add_namespace(&mut self, role: &str) -> Result<String, LabError> {
        let namespace = Namespace::create(&self.tools, &self.claim, role)?;
        let name = namespace.name().to_owned();
        self.namespaces.push(namespace);
        Ok(name)
    }

    /// Puts a namespace on the public network, which has no way out.
    fn plug_into_switch(&mut self, namespace: &str, port: &str, addrs: &[Ipv4Addr]) -> Result<(), LabError> {
        self.public.push((Host::new(&self.tools, namespace, addrs[0], addrs[0]), PUBLIC_DEVICE));
        wiring::connect(
            &self.tools,
            &Plug { namespace: &self.switch, device: port },
            &Plug { namespace, device: wiring::WAN },
            Some(wiring::SWITCH_BRIDGE),
        )?;
        wiring::configure(&self.tools, namespace, addrs, DefaultRoute::Blackhole)?;
        if namespace == self.server.namespace() {
            // Nobody is there yet to hear it; the link of the next one to come ends at the server's.
            return Ok(());
        }
        wiring::await_link(namespace, self.server.namespace(), SERVER_ADDRS[0])
    }
}
