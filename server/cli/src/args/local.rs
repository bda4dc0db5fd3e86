//! What runs on this machine alone.

use clap::Args;

/// The demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Without NATs, even if this user may make network namespaces.
    #[arg(long, env = "MEETPOINT_LOOPBACK")]
    pub(crate) loopback: bool,
    /// End after the timeline, instead of staying up until Ctrl-C.
    #[arg(long, env = "MEETPOINT_ONCE")]
    pub(crate) once: bool,
}

/// This machine's network.
#[derive(Debug, Args)]
pub(crate) struct NetcheckArgs {
    /// A rendezvous server: http://HOST:PORT or https://HOST:PORT. May be repeated. Nobody else is asked.
    #[arg(
        long,
        env = "MEETPOINT_RENDEZVOUS",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = super::node::url,
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) rendezvous: Vec<String>,
    /// A join token, for the fingerprint of the server's certificate that it carries. Nothing is joined.
    #[arg(long, env = "MEETPOINT_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) join_token: Option<String>,
    /// The fingerprint of the server's certificate, if no join token brings it.
    #[arg(long, env = "MEETPOINT_FINGERPRINT", value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<meetpoint_proto::id::Fingerprint>,
    /// Allow plain HTTP to a server that is not on this machine.
    #[arg(long, env = "MEETPOINT_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
    /// What was found as JSON.
    #[arg(long, env = "MEETPOINT_JSON")]
    pub(crate) json: bool,
}
