//! The table of everything that is answered; routing and the OpenAPI document both follow from it.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    PAGE_MAX, PREFIX,
    wire::{Ask, Empty, Report, Studies, Study, Tell, TrialShown, Trials},
};
use crate::StudySpec;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Create,
    All,
    Get,
    Delete,
    Ask,
    Report,
    Tell,
    Trials,
    Best,
    OpenApi,
}

/// The schema of a type that is read or written.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A body that is read, and whether it may be left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Takes {
    pub(super) schema: SchemaOf,
    pub(super) required: bool,
}

/// One call.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) call: Call,
    pub(super) method: Method,
    /// Where it is below [`PREFIX`]; `{…}` stands for one segment.
    pub(super) path: &'static str,
    /// Its name in the document.
    pub(super) operation: &'static str,
    /// What it does, in one line.
    pub(super) says: &'static str,
    pub(super) takes: Option<Takes>,
    pub(super) gives: SchemaOf,
    /// Whole numbers of the query: the name, what it says, the most that is heeded.
    pub(super) query: &'static [(&'static str, &'static str)],
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn takes(schema: SchemaOf) -> Option<Takes> {
    Some(Takes { schema, required: true })
}

const PAGE: &[(&str, &str)] = &[
    ("first", "Number of the first trial, 0 where absent"),
    ("limit", "Trials of this page, 1000 at most and where absent"),
];
const _: () = assert!(PAGE_MAX == 1000, "the words above say so");

/// Every call.
#[rustfmt::skip]
pub(super) static ROUTES: &[Route] = &[
    Route { call: Call::Create, method: Method::POST, path: "studies", operation: "createStudy",
            says: "Creates a study; the same again finds it", takes: takes(of::<StudySpec>), gives: of::<StudySpec>, query: &[] },
    Route { call: Call::All, method: Method::GET, path: "studies", operation: "studies",
            says: "All studies, by name", takes: None, gives: of::<Studies>, query: &[] },
    Route { call: Call::Get, method: Method::GET, path: "studies/{study}", operation: "study",
            says: "A study, with its best trial", takes: None, gives: of::<Study>, query: &[] },
    Route { call: Call::Delete, method: Method::DELETE, path: "studies/{study}", operation: "deleteStudy",
            says: "Deletes a study and its trials", takes: None, gives: of::<Empty>, query: &[] },
    Route { call: Call::Ask, method: Method::POST, path: "studies/{study}/ask", operation: "ask",
            says: "New trials, one where nothing is said", takes: Some(Takes { schema: of::<Ask>, required: false }),
            gives: of::<Trials>, query: &[] },
    Route { call: Call::Report, method: Method::POST, path: "studies/{study}/trials/{number}/report", operation: "report",
            says: "Says what a running trial is worth by now", takes: takes(of::<Report>), gives: of::<TrialShown>, query: &[] },
    Route { call: Call::Tell, method: Method::POST, path: "studies/{study}/trials/{number}/tell", operation: "tell",
            says: "Says how a trial ended", takes: takes(of::<Tell>), gives: of::<TrialShown>, query: &[] },
    Route { call: Call::Trials, method: Method::GET, path: "studies/{study}/trials", operation: "trials",
            says: "Trials by number, a page of them", takes: None, gives: of::<Trials>, query: PAGE },
    Route { call: Call::Best, method: Method::GET, path: "studies/{study}/best", operation: "best",
            says: "The best trial", takes: None, gives: of::<TrialShown>, query: &[] },
    Route { call: Call::OpenApi, method: Method::GET, path: "openapi.json", operation: "openApi",
            says: "This document", takes: None, gives: of::<serde_json::Map<String, serde_json::Value>>, query: &[] },
];

impl Route {
    /// What stands for `{…}`, if this is the route of a path's segments.
    fn matches<'a>(&self, segments: &[&'a str]) -> Option<Vec<&'a str>> {
        let pattern: Vec<_> = self.path.split('/').collect();
        let fits = |(part, segment): (&&str, &&str)| part.starts_with('{') || part == segment;
        let all = pattern.len() == segments.len() && pattern.iter().zip(segments).all(fits);
        let names = || pattern.iter().zip(segments).filter(|(part, _)| part.starts_with('{'));
        all.then(|| names().map(|(_, segment)| *segment).collect())
    }

    /// The whole path.
    pub(super) fn full_path(&self) -> String {
        format!("{PREFIX}{}", self.path)
    }
}

/// The call that a request is, and what its path names.
pub(super) fn find<'a>(method: &Method, segments: &[&'a str]) -> Option<(Call, Vec<&'a str>)> {
    let of_method = ROUTES.iter().filter(|route| route.method == *method);
    of_method.filter_map(|route| Some((route.call, route.matches(segments)?))).next()
}
