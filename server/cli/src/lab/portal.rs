//! A router's port-mapping service: miniupnpd, which speaks UPnP, NAT-PMP and PCP.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::process::{Process, ProcessError};
use super::tools::Tools;
use super::{LabError, wiring};

/// How long the service may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a mapping by PCP holds at most, whatever is asked for: so short that a test can see the end of it.
const PCP_LEASE: Duration = Duration::from_secs(24);

/// What the service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// UPnP, as an Internet Gateway Device.
    Upnp,
    /// PCP, and NAT-PMP.
    Pcp,
}

/// The service's rules and the jumps by which they come into force. `refused` is what the router takes from nobody.
fn table(refused: &str) -> String {
    format!(
        "table inet miniupnpd {{
            chain miniupnpd {{ }}
            chain prerouting_miniupnpd {{ }}
            chain postrouting_miniupnpd {{ }}
            chain to_router {{
                type filter hook input priority filter - 1; policy accept;
                {refused}
            }}
            chain through {{
                type filter hook forward priority filter - 1; policy accept;
                jump miniupnpd
            }}
            chain from_world {{
                type nat hook prerouting priority dstnat; policy accept;
                jump prerouting_miniupnpd
            }}
            chain to_world {{
                type nat hook postrouting priority srcnat - 5; policy accept;
                jump postrouting_miniupnpd
            }}
        }}"
    )
}

/// A running service. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Portal {
    _process: Process,
    pid_file: PathBuf,
}

impl Portal {
    /// Starts the service of a router whose rules are loaded, and waits until it listens.
    pub(super) fn start(tools: &Tools, namespace: &str, protocol: Protocol) -> Result<Self, LabError> {
        let program = Tools::portal()?;
        // Without UPnP the service does not answer PCP either, so there its search is made unheard.
        let (pcp, refused) = match protocol {
            Protocol::Upnp => ("no", ""),
            Protocol::Pcp => ("yes", "udp dport 1900 drop"),
        };
        tools.nft(namespace, &table(refused))?;
        let (wan, lan, lease_s) = (wiring::WAN, wiring::LAN, PCP_LEASE.as_secs());
        let config = format!(
            "ext_ifname={wan}\nlistening_ip={lan}\nenable_upnp=yes\nenable_natpmp={pcp}\nsecure_mode=yes\n\
             upnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             min_lifetime=1\nmax_lifetime={lease_s}\n\
             uuid=6d656574-706f-696e-7400-000000000001\n\
             allow 1024-65535 10.0.0.0/8 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        let pid_file = std::env::temp_dir().join(format!("{namespace}-miniupnpd.pid"));
        // The configuration comes by a pipe, so that no file of it stays behind.
        let script = "exec 2>&1; config=$1; shift; exec \"$@\" -d -f /dev/fd/3 3<<END\n$config\nEND\n";
        let mut command = tools.exec(namespace);
        command.args(["sh", "-c", script, "sh", &config]);
        command.arg(program).arg("-P").arg(&pid_file);
        let broken = |error: ProcessError| LabError::namespace(namespace, "its port mapping", &error);
        let mut process =
            Process::spawn(&format!("miniupnpd of {namespace}"), &mut command).map_err(broken)?;
        let listening = |line: &str| match protocol {
            Protocol::Upnp => line.contains("HTTP listening on port").then_some(()),
            Protocol::Pcp => line.contains("Listening for NAT-PMP/PCP traffic").then_some(()),
        };
        process.expect_line("sign that it listens", PATIENCE, listening).map_err(broken)?;
        Ok(Self { _process: process, pid_file })
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        // It is not there if the service never came so far.
        let _ = fs::remove_file(&self.pid_file);
    }
}
