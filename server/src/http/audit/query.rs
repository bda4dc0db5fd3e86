//! Which entries a request asks for.

use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::http::extract::PageQuery;
use crate::http::problem::{Problem, ProblemCode};
use crate::service::Action;
use crate::store::audit::AuditFilter;

/// Which page of which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AuditQuery {
    /// Entries at most.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// `next` of the page before, or the number of an entry; leave it out for the first page.
    #[param(pattern = "^[0-9]{1,19}$")]
    after: Option<String>,
    /// Only entries of this action.
    #[param(schema_with = action_schema)]
    action: Option<String>,
    /// Only entries that are not older.
    since_unix_ms: Option<i64>,
    /// Only entries that are older.
    until_unix_ms: Option<i64>,
}

impl AuditQuery {
    /// The page asked for.
    pub(super) fn page(self) -> PageQuery {
        PageQuery::new(self.limit, self.after)
    }

    /// The entries asked for.
    pub(super) fn filter(&self) -> Result<AuditFilter, Problem> {
        Ok(AuditFilter {
            action: self.action.as_deref().map(known_action).transpose()?,
            since_ms: self.since_unix_ms,
            until_ms: self.until_unix_ms,
        })
    }
}

fn action_schema() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Action::WORDS.iter().copied())).build()
}

fn known_action(word: &str) -> Result<&'static str, Problem> {
    let known = Action::WORDS.iter().find(|known| **known == word);
    known.copied().ok_or_else(|| {
        Problem::new(ProblemCode::BadQuery, format!("action: one of {}", Action::WORDS.join(", ")))
    })
}
