//! The machine's addresses.

use std::io;

use if_addrs::IfAddr;
use meetpoint_agent::Interface;

/// All addresses of all interfaces that are up, loopback included.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let all = if_addrs::get_if_addrs()?;
    let up = all.into_iter().filter(if_addrs::Interface::is_oper_up);
    Ok(up
        .map(|interface| match interface.addr {
            IfAddr::V4(v4) => Interface { ip: v4.ip.into(), prefix_len: v4.prefixlen },
            IfAddr::V6(v6) => Interface { ip: v6.ip.into(), prefix_len: v6.prefixlen },
        })
        .collect())
}
