//! IPv6 on the lab's public network: hosts have addresses of their own there, without translation, and a firewall that
//! lets in what answers them, as an access line at home has it (RFC 6092).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::wiring::{self, Plug};
use super::{Host, Lab, LabError, PUBLIC_DEVICE, SITE_BASE};

/// The server's addresses of IPv6, primary and alternate. They look like the internet's, as those of IPv4 do.
pub const SERVER_ADDRS_V6: [Ipv6Addr; 2] = [public_addr(1), public_addr(2)];

/// By which a host that has IPv4 elsewhere is on the public network for IPv6.
const SECOND_DEVICE: &str = "six";

/// All of the public network is one link.
const PREFIX_LEN: u8 = 64;

/// How long a new link may take to pass packets, in seconds.
const LINK_UP: Duration = Duration::from_secs(20);

/// Answers, and what makes IPv6 work (RFC 4890, section 4.4), get in.
const FIREWALL: &str = "table ip6 home {
    chain unasked {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        iif lo accept
    }
}
";

const fn public_addr(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2a0f, 0, 0, 0, 0, 0, 0, number)
}

impl Lab {
    /// Gives the server host its addresses of IPv6. Before a server starts there.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable.
    pub fn enable_ipv6(&self) -> Result<(), LabError> {
        SERVER_ADDRS_V6
            .into_iter()
            .try_for_each(|addr| self.add_addr_v6(self.server.namespace(), PUBLIC_DEVICE, addr))
    }

    /// A host that has IPv6 and nothing else.
    ///
    /// # Errors
    ///
    /// See [`LabError`]; the lab stays usable. Without [`Lab::enable_ipv6`] nobody is there to test the link with.
    pub fn ipv6_host(&mut self) -> Result<Host, LabError> {
        let site = self.next_site()?;
        let name = self.add_namespace(&format!("six{site}"))?;
        let host = Host::new(&self.tools, &name, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        self.plug_in_v6(&host, PUBLIC_DEVICE, site)?;
        Ok(host)
    }

    /// Gives a host that has IPv4 an address of IPv6 besides.
    ///
    /// # Errors
    ///
    /// As [`Lab::ipv6_host`].
    pub fn add_ipv6(&mut self, host: &Host) -> Result<(), LabError> {
        let site = self.next_site()?;
        self.plug_in_v6(host, SECOND_DEVICE, site)
    }

    fn plug_in_v6(&mut self, host: &Host, device: &'static str, site: u8) -> Result<(), LabError> {
        wiring::connect(
            &self.tools,
            &Plug { namespace: &self.switch, device: &format!("six{site}") },
            &Plug { namespace: host.namespace(), device },
            Some(wiring::SWITCH_BRIDGE),
        )?;
        self.tools.nft(host.namespace(), FIREWALL)?;
        self.add_addr_v6(host.namespace(), device, public_addr(u16::from(SITE_BASE) + u16::from(site)))?;
        self.public.push((host.clone(), device));
        self.await_server_v6(host)
    }

    /// Without the duplicate detection that would keep the address unusable for a second.
    fn add_addr_v6(&self, namespace: &str, device: &str, addr: Ipv6Addr) -> Result<(), LabError> {
        let batch = format!("addr add {addr}/{PREFIX_LEN} dev {device} nodad\n");
        self.tools.ip(Some(namespace), &batch)
    }

    fn await_server_v6(&self, host: &Host) -> Result<(), LabError> {
        let (server, seconds) = (SERVER_ADDRS_V6[0].to_string(), LINK_UP.as_secs().to_string());
        // Ends with the first answer.
        let mut ping = host.command("ping");
        ping.args(["-6", "-n", "-q", "-c", "1", "-i", "0.2", "-w", &seconds, &server]);
        match ping.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                Err(LabError::namespace(host.namespace(), "its link of IPv6 to the server", &said))
            }
            Err(error) => Err(LabError::namespace(host.namespace(), "ping", &error)),
        }
    }
}
