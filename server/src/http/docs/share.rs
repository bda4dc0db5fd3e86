//! Refusals that many operations give are said once, among the components.

use std::collections::BTreeMap;

use utoipa::openapi::{OpenApi, Ref, RefOr, Response};

use super::complete::operations;
use crate::http::problem::MEDIA_TYPE;

/// The name of a refusal of which no particular problem is told.
const ANY: &str = "refused";
/// Between the codes of the problems that an answer may be. A code has no such letter.
const OR: &str = "-or-";

/// Puts references in the place of refusals that occur more than once.
pub(super) fn share(contract: &mut OpenApi) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    each_refusal(contract, |refusal| *seen.entry(text(refusal)).or_default() += 1);
    let mut shared: BTreeMap<String, Response> = BTreeMap::new();
    each_answer(contract, |answer| {
        let RefOr::T(refusal) = answer else { return };
        let Some(name) = name(refusal).filter(|_| seen.get(&text(refusal)).is_some_and(|count| *count > 1))
        else {
            return;
        };
        // Two that differ in their words only can't have the same name: the later one stays where it is.
        if shared.entry(name.clone()).or_insert_with(|| refusal.clone()) == refusal {
            *answer = RefOr::Ref(Ref::from_response_name(name));
        }
    });
    let components = contract.components.get_or_insert_default();
    components.responses.extend(shared.into_iter().map(|(name, refusal)| (name, RefOr::T(refusal))));
}

fn each_answer(contract: &mut OpenApi, mut visit: impl FnMut(&mut RefOr<Response>)) {
    for item in contract.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            operation.responses.responses.values_mut().for_each(&mut visit);
        }
    }
}

fn each_refusal(contract: &mut OpenApi, mut visit: impl FnMut(&Response)) {
    each_answer(contract, |answer| {
        if let RefOr::T(answer) = answer
            && name(answer).is_some()
        {
            visit(answer);
        }
    });
}

/// All of it.
fn text(answer: &Response) -> String {
    serde_json::to_string(answer).unwrap_or_default()
}

/// The problems that an answer may be; nothing if it may be something else.
fn name(answer: &Response) -> Option<String> {
    let mut contents = answer.content.iter();
    let (Some((media_type, RefOr::T(content))), None) = (contents.next(), contents.next()) else {
        return None;
    };
    let codes: Vec<&str> = content.examples.keys().map(String::as_str).collect();
    let name = if codes.is_empty() { ANY.to_owned() } else { codes.join(OR) };
    (media_type == MEDIA_TYPE).then_some(name)
}
