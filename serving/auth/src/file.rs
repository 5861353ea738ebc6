//! A policy as its file has it, in TOML or YAML.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use mizzen_serving_core::Category;
use mizzen_types::{Coded, ErrorCode};
use serde::Deserialize;

use crate::{
    policy::{Caller, Client, Models, Policy, Rule, Token},
    token::TokenHash,
};

/// Tokens in one file. All of them are compared for each request, some 30 ns each.
const TOKENS_MAX: usize = 1024;

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not of the form that is expected.
    #[error("{0}")]
    Form(String),
    /// An entry says something that cannot be.
    #[error("{entry}: {reason}")]
    Entry {
        /// Which entry.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Coded for PolicyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyForm {
    #[serde(default)]
    tokens: Vec<TokenForm>,
    #[serde(default)]
    clients: Vec<ClientForm>,
    #[serde(default)]
    anyone: Option<AnyoneForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    name: String,
    sha256: String,
    expires: Option<String>,
    allow: Vec<RuleForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientForm {
    name: String,
    certificate: String,
    allow: Vec<RuleForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyoneForm {
    allow: Vec<RuleForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    categories: Vec<String>,
    models: Option<Vec<String>>,
}

impl Policy {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`PolicyError`] with the line or the entry, and what was expected; never with a value that
    /// may be secret.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let form: PolicyForm = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            PolicyError::Form(format!("{at}{}", error.message()))
        })?;
        form.policy()
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// As [`Policy::from_toml`].
    pub fn from_yaml(text: &str) -> Result<Self, PolicyError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let form = serde_saphyr::from_str_with_options::<PolicyForm>(text, options);
        form.map_err(|error| PolicyError::Form(error.to_string()))?.policy()
    }
}

impl PolicyForm {
    fn policy(self) -> Result<Policy, PolicyError> {
        let Self { tokens, clients, anyone } = self;
        if tokens.len() > TOKENS_MAX {
            let reason = format!("there are {}; at most {TOKENS_MAX} are taken", tokens.len());
            return Err(PolicyError::Entry { entry: "tokens".to_owned(), reason });
        }
        let anyone = anyone.map(|form| rules("anyone", form.allow)).transpose()?;
        let anyone: Arc<[Rule]> = anyone.unwrap_or_default();
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        let mut policy = Policy { anyone: anyone.clone(), ..Policy::default() };
        for form in tokens {
            let entry = format!("token `{}`", form.name);
            once(&mut names, &form.name, &entry, "name")?;
            once(&mut hashes, &form.sha256.to_lowercase(), &entry, "sha256")?;
            let hash = TokenHash::parse(&form.sha256).map_err(wrong(&entry))?;
            let expires = form.expires.as_deref().map(expiry).transpose().map_err(wrong(&entry))?;
            let caller = caller(form.name, rules(&entry, form.allow)?, &anyone);
            policy.tokens.push(Token { hash, expires, caller });
        }
        let mut certificates = HashSet::new();
        for form in clients {
            let entry = format!("client `{}`", form.name);
            once(&mut names, &form.name, &entry, "name")?;
            once(&mut certificates, &form.certificate, &entry, "certificate")?;
            let caller = caller(form.name, rules(&entry, form.allow)?, &anyone);
            policy.clients.push(Client { certificate: form.certificate, caller });
        }
        Ok(policy)
    }
}

fn wrong(entry: &str) -> impl Fn(String) -> PolicyError + use<'_> {
    move |reason| PolicyError::Entry { entry: entry.to_owned(), reason }
}

/// Names are for logs and hashes for looking up: neither can stand for two.
fn once(
    seen: &mut HashSet<String>,
    value: &str,
    entry: &str,
    field: &str,
) -> Result<(), PolicyError> {
    if value.is_empty() {
        return Err(wrong(entry)(format!("`{field}` is empty")));
    }
    match seen.insert(value.to_owned()) {
        true => Ok(()),
        false => Err(wrong(entry)(format!("another entry has the same `{field}`"))),
    }
}

fn expiry(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!(
            "`expires` must be a time with its zone, like \"2027-01-31T00:00:00Z\"; got `{text}`"
        )
    })
}

fn caller(name: String, rules: Arc<[Rule]>, anyone: &Arc<[Rule]>) -> Caller {
    Caller { name: name.into(), rules, anyone: anyone.clone(), known: true }
}

fn rules(entry: &str, forms: Vec<RuleForm>) -> Result<Arc<[Rule]>, PolicyError> {
    let rule = |form: RuleForm| {
        if form.categories.is_empty() {
            return Err("a rule of `allow` has no `categories`; `[\"*\"]` is all".to_owned());
        }
        let all = form.categories.iter().any(|name| name == "*");
        let categories = match all {
            true => Category::ALL.to_vec(),
            false => form
                .categories
                .iter()
                .map(|name| name.parse::<Category>().map_err(|e| format!("{e}, or `*`")))
                .collect::<Result<_, _>>()?,
        };
        let models = match form.models {
            None => Models::All,
            Some(patterns) => match patterns.iter().find(|p| misplaced_star(p)) {
                Some(p) => return Err(format!("model `{p}`: `*` stands at the end or nowhere")),
                None if patterns.iter().any(|p| p == "*") => Models::All,
                None => Models::These(patterns),
            },
        };
        Ok(Rule { categories, models })
    };
    forms.into_iter().map(rule).collect::<Result<_, _>>().map_err(wrong(entry))
}

fn misplaced_star(pattern: &str) -> bool {
    pattern.strip_suffix('*').unwrap_or(pattern).contains('*')
}
