//! What may be asked of a seed.

use serde::Deserialize;
use utoipa::IntoParams;

/// Which address is meant, and what is to be signed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// 32 random bytes in lower-case base32.
    #[param(min_length = 52, max_length = 52)]
    pub(super) nonce: String,
    /// The address asked, as `IP:PORT`.
    #[param(example = "20.0.0.1:8080")]
    pub(super) at: String,
}
