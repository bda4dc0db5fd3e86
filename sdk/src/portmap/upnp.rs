//! By UPnP: a router of the Internet Gateway Device family (IGD 1 and 2).
//!
//! It is searched for on the LAN by SSDP, says in an XML description where it is controlled, and is then asked by SOAP.
//! All of that is five short messages, made here: a library for it brings an HTTP client with HTTP/2 and an XML parser,
//! 15 crates, and sockets of its own that would pass the gate by. Of the XML nothing is wanted but the text of some
//! elements, so it is searched and not parsed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::egress::Egress;
use crate::http::{self, HttpError};
use crate::interfaces;
use crate::ws::ServerUrl;

/// Where devices are searched for (UPnP Device Architecture, section 1.3.2).
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// What is searched for: routers of both versions.
const TARGETS: [&str; 2] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
];
/// The services that map ports, whatever their version.
const SERVICES: [&str; 2] =
    ["urn:schemas-upnp-org:service:WANIPConnection:", "urn:schemas-upnp-org:service:WANPPPConnection:"];
/// The search is repeated after this: multicast gets lost.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// Longest answer to a search, in bytes.
const MAX_ANSWER_LEN: usize = 2_048;
/// What the router shows its owner.
const DESCRIPTION: &str = "meetpoint";
/// A lease without an end.
const PERMANENT: u32 = 0;
/// Ports that are tried if that of the same number is taken.
const MAX_TRIES: usize = 4;
/// Errors of AddPortMapping (WANIPConnection:1, section 2.4.16).
const CONFLICT: u16 = 718;
const ONLY_PERMANENT: u16 = 725;

/// Why there is no mapping.
#[derive(Debug, Error)]
pub(super) enum UpnpError {
    /// No socket, no connection, or no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What answered is no router that maps ports.
    #[error("its description names no service that maps ports")]
    NoService,
    /// The node has no address towards the router.
    #[error("nothing to map")]
    Nothing,
    /// The router refuses, by this number.
    #[error("it refuses: error {0}")]
    Refused(u16),
    /// The router says something else.
    #[error("its answer can't be understood")]
    BadAnswer,
    /// Each port that was tried belongs to somebody else.
    #[error("no free port")]
    NoPort,
}

impl From<std::io::Error> for UpnpError {
    fn from(error: std::io::Error) -> Self {
        Self::Http(error.into())
    }
}

/// A router that has answered.
#[derive(Debug)]
pub(super) struct Router {
    control: Place,
    service: String,
    local: IpAddr,
    external: IpAddr,
    egress: Arc<Egress>,
}

/// Where a document of the router's is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    addr: SocketAddr,
    path: String,
}

impl Router {
    /// Searches for the machine's router until it has answered. What else answers is not talked to, if it is known
    /// which one that is; and whoever answers speaks for itself alone.
    pub(super) async fn find(egress: &Arc<Egress>, expected: Option<IpAddr>) -> Result<Self, UpnpError> {
        let local =
            expected.and_then(|gateway| interfaces::source_towards(SocketAddr::new(gateway, SSDP.port())));
        let socket = UdpSocket::bind((local.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0)).await?;
        let mut buffer = [0; MAX_ANSWER_LEN];
        loop {
            for target in TARGETS {
                let search = format!(
                    "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n"
                );
                egress.send_to(&SockRef::from(&socket), SSDP, search.as_bytes())?;
            }
            let again = Instant::now() + SEARCH_INTERVAL;
            while let Ok(received) = timeout_at(again, socket.recv_from(&mut buffer)).await {
                let (len, from) = received?;
                let location = std::str::from_utf8(&buffer[..len]).ok().and_then(location);
                let is_it = expected.is_none_or(|expected| expected == from.ip());
                let Some(place) = location.filter(|place| is_it && place.addr.ip() == from.ip()) else {
                    continue;
                };
                return Self::at(egress, &place).await;
            }
        }
    }

    /// The router of this description.
    async fn at(egress: &Arc<Egress>, place: &Place) -> Result<Self, UpnpError> {
        let description = get(egress, place).await?;
        let (service, control) = service(&description, place).ok_or(UpnpError::NoService)?;
        let local = interfaces::source_towards(place.addr).ok_or(UpnpError::Nothing)?;
        let egress = Arc::clone(egress);
        let mut router = Self { control, service, local, external: Ipv4Addr::UNSPECIFIED.into(), egress };
        router.learn_external().await?;
        Ok(router)
    }

    /// Its address towards the world.
    pub(super) fn external(&self) -> IpAddr {
        self.external
    }

    /// Has it map a port, at best of the same number.
    pub(super) async fn map(self, port: u16, lifetime: Duration) -> Result<Lease, UpnpError> {
        let lease_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let mut lease = Lease { router: self, internal: port, port, lease_s, lifetime };
        for _ in 0..MAX_TRIES {
            match lease.add().await {
                Ok(()) => return Ok(lease),
                Err(UpnpError::Refused(CONFLICT)) => lease.port = other_port(lease.port),
                Err(error) => return Err(error),
            }
        }
        Err(UpnpError::NoPort)
    }

    async fn learn_external(&mut self) -> Result<(), UpnpError> {
        let answer = self.call("GetExternalIPAddress", &[]).await?;
        self.external = external(&answer).ok_or(UpnpError::BadAnswer)?;
        Ok(())
    }

    /// Asks for something; the answer's body.
    async fn call(&self, action: &str, arguments: &[(&str, &str)]) -> Result<String, UpnpError> {
        let service = &self.service;
        let arguments: String =
            arguments.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        let Place { addr, path } = &self.control;
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: {addr}\r\nSOAPAction: \"{service}#{action}\"\r\n\
             Content-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.egress.connect(*addr).await?;
        let answer = http::exchange(&mut stream, &request).await?;
        match (answer.status, element(&answer.body, "errorCode").and_then(|code| code.parse().ok())) {
            (200, _) => Ok(answer.body),
            (_, Some(code)) => Err(UpnpError::Refused(code)),
            (status, None) => Err(UpnpError::Refused(status)),
        }
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

    /// Of one that is without an end too: routers forget.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(super) async fn renew(&mut self) -> Result<(), UpnpError> {
        self.router.learn_external().await?;
        self.add().await
    }

    pub(super) async fn remove(self) -> Result<(), UpnpError> {
        let port = self.port.to_string();
        let arguments = [("NewRemoteHost", ""), ("NewExternalPort", &*port), ("NewProtocol", "UDP")];
        self.router.call("DeletePortMapping", &arguments).await.map(|_| ())
    }

    async fn add(&mut self) -> Result<(), UpnpError> {
        match self.add_for(self.lease_s).await {
            Err(UpnpError::Refused(ONLY_PERMANENT)) if self.lease_s != PERMANENT => {
                self.lease_s = PERMANENT;
                self.add_for(PERMANENT).await
            }
            added => added,
        }
    }

    async fn add_for(&self, lease_s: u32) -> Result<(), UpnpError> {
        let [port, internal] = [self.port, self.internal].map(|port| port.to_string());
        let (local, lease_s) = (self.router.local.to_string(), lease_s.to_string());
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &*port),
            ("NewProtocol", "UDP"),
            ("NewInternalPort", &*internal),
            ("NewInternalClient", &*local),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", DESCRIPTION),
            ("NewLeaseDuration", &*lease_s),
        ];
        self.router.call("AddPortMapping", &arguments).await.map(|_| ())
    }
}

/// Another port, far from it, that is none of a system's.
fn other_port(port: u16) -> u16 {
    port.wrapping_mul(31).wrapping_add(7_919) | 0x8000
}

async fn get(egress: &Egress, place: &Place) -> Result<String, UpnpError> {
    let Place { addr, path } = place;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let mut stream = egress.connect(*addr).await?;
    let answer = http::exchange(&mut stream, &request).await?;
    if answer.status == 200 { Ok(answer.body) } else { Err(UpnpError::BadAnswer) }
}

/// Where an answer to a search says that the description is.
fn location(answer: &str) -> Option<Place> {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    };
    answer.lines().find_map(header).as_deref().and_then(place)
}

/// A URL by its address; names are not looked up for a router.
fn place(url: &str) -> Option<Place> {
    let rest = url.strip_prefix("http://")?;
    let path_at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_at);
    let server: ServerUrl = format!("http://{authority}").parse().ok()?;
    let addr = server.authority().parse().ok()?;
    let path = if path.is_empty() { "/" } else { path };
    is_path(path).then(|| Place { addr, path: path.to_owned() })
}

/// Nothing in it ends a request's line.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The service that maps ports, and where it is controlled: at the router itself, whatever the description says.
fn service(description: &str, from: &Place) -> Option<(String, Place)> {
    let mut services = description.split("<service>").skip(1);
    let (name, url) = services.find_map(|service| {
        let service = service.split("</service>").next()?;
        let name = element(service, "serviceType")?;
        let is_one = SERVICES
            .iter()
            .any(|known| name.strip_prefix(known).is_some_and(|version| version.parse::<u8>().is_ok()));
        is_one.then_some(())?;
        Some((name.to_owned(), element(service, "controlURL")?.replace("&amp;", "&")))
    })?;
    let base =
        element(description, "URLBase").and_then(place).filter(|base| base.addr.ip() == from.addr.ip());
    let base = base.map_or(from.addr, |base| base.addr);
    let control = match place(&url) {
        Some(place) => place,
        None if url.contains("://") => return None,
        None => {
            let path = if url.starts_with('/') { url } else { format!("/{url}") };
            is_path(&path).then_some(Place { addr: base, path })?
        }
    };
    (control.addr.ip() == from.addr.ip()).then_some((name, control))
}

/// What the router says is its address towards the world.
fn external(answer: &str) -> Option<IpAddr> {
    element(answer, "NewExternalIPAddress")?.parse().ok()
}

/// The text of the first element of this name that has nothing else in it.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = xml.find(&open)? + open.len();
    let len = xml[start..].find(&close)?;
    let text = xml[start..start + len].trim();
    (!text.contains('<')).then_some(text)
}

/// For whoever searches for texts that go wrong.
#[cfg(feature = "fuzzing")]
pub(crate) fn upnp_location(answer: &str) -> Option<(SocketAddr, String)> {
    location(answer).map(|place| (place.addr, place.path))
}

/// The same.
#[cfg(feature = "fuzzing")]
pub(crate) fn upnp_service(description: &str, from: SocketAddr) -> Option<(String, SocketAddr, String)> {
    let from = Place { addr: from, path: "/".to_owned() };
    service(description, &from).map(|(name, place)| (name, place.addr, place.path))
}

/// The same.
#[cfg(feature = "fuzzing")]
pub(crate) fn upnp_external(answer: &str) -> Option<IpAddr> {
    external(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addr: &str, path: &str) -> Place {
        Place { addr: addr.parse().unwrap(), path: path.to_owned() }
    }

    #[test]
    fn locations() {
        for (answer, expect) in [
            (
                "HTTP/1.1 200 OK\r\nLOCATION: http://10.0.0.1:5000/desc.xml\r\n\r\n",
                Some(at("10.0.0.1:5000", "/desc.xml")),
            ),
            ("HTTP/1.1 200 OK\r\nlocation:http://10.0.0.1/\r\n", Some(at("10.0.0.1:80", "/"))),
            ("Location: http://[fe80::1]:80/a?b", Some(at("[fe80::1]:80", "/a?b"))),
            ("LOCATION: https://10.0.0.1/", None),
            ("LOCATION: http://router/", None),
            ("LOCATION: http://10.0.0.1:99999/", None),
            ("LOCATION: http://10.0.0.1/a b", None),
            ("LOCATION: http://a@10.0.0.1/", None),
            ("ST: x\r\n", None),
            ("", None),
        ] {
            assert_eq!(location(answer), expect, "{answer}");
        }
    }

    #[test]
    fn services() {
        const NAME: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let from = at("10.0.0.1:5000", "/desc.xml");
        let one = |name: &str, url: &str| {
            format!("<service><serviceType>{name}</serviceType><controlURL>{url}</controlURL></service>")
        };
        let other = one("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3");
        let base = |url: &str| format!("<URLBase>{url}</URLBase>");
        for (description, expect) in [
            (format!("{other}{}", one(NAME, "/ctl?a&amp;b")), Some(at("10.0.0.1:5000", "/ctl?a&b"))),
            (one(NAME, "ctl"), Some(at("10.0.0.1:5000", "/ctl"))),
            (one(NAME, "http://10.0.0.1:6000/ctl"), Some(at("10.0.0.1:6000", "/ctl"))),
            (
                format!("{}{}", base("http://10.0.0.1:7000/"), one(NAME, "/ctl")),
                Some(at("10.0.0.1:7000", "/ctl")),
            ),
            (
                format!("{}{}", base("http://10.0.0.9:7000/"), one(NAME, "/ctl")),
                Some(at("10.0.0.1:5000", "/ctl")),
            ),
            // Elsewhere, and what is none.
            (one(NAME, "http://10.0.0.9:6000/ctl"), None),
            (one(NAME, "https://10.0.0.1/ctl"), None),
            (one(NAME, "/a\r\nb"), None),
            (one("urn:schemas-upnp-org:service:WANIPConnection:1\"><x", "/ctl"), None),
            (other, None),
            ("<service><serviceType>".to_owned(), None),
            (String::new(), None),
        ] {
            let found = service(&description, &from);
            assert_eq!(found.map(|(_, place)| place), expect, "{description}");
        }
    }

    #[test]
    fn other_ports_are_other_and_high() {
        for port in [0, 1, 4_000, 32_768, 65_535] {
            let other = other_port(port);
            assert!(other >= 0x8000 && other != port, "{port}: {other}");
        }
    }
}
