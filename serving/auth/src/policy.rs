//! Rules, and the decisions that follow from them.

use std::sync::Arc;

use jiff::Timestamp;
use mizzen_serving_core::Category;
use mizzen_types::{Coded, ErrorCode};
use subtle::ConditionallySelectable as _;

use crate::token::TokenHash;

/// Who there is and what each may do.
#[derive(Debug, Default)]
pub struct Policy {
    pub(crate) tokens: Vec<Token>,
    pub(crate) clients: Vec<Client>,
    /// What anyone may do, known or not.
    pub(crate) anyone: Arc<[Rule]>,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) hash: TokenHash,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) caller: Caller,
}

#[derive(Debug)]
pub(crate) struct Client {
    /// A subject, or an alternative name with its kind before it (`URI:spiffe://…`).
    pub(crate) certificate: String,
    pub(crate) caller: Caller,
}

/// Calls of these kinds, on these models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) categories: Vec<Category>,
    pub(crate) models: Models,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Models {
    All,
    /// By name; a `*` at the end stands for any rest.
    These(Vec<String>),
}

impl Models {
    fn hold(&self, model: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(patterns) => patterns.iter().any(|pattern| {
                pattern.strip_suffix('*').map_or(pattern == model, |head| model.starts_with(head))
            }),
        }
    }
}

/// What a call touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// No model (whether the server lives), or one that is named further on and asked about then.
    Server,
    /// This model.
    Model(&'a str),
    /// Every model there is, or what is behind them all.
    All,
}

/// What a request shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The value of `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The names in the client's certificate, which an authority of ours has signed: the subject,
    /// and alternative names.
    pub certificate: &'a [String],
}

/// Someone known, or anyone; what they may do. Clones share it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(crate) name: Arc<str>,
    pub(crate) rules: Arc<[Rule]>,
    pub(crate) anyone: Arc<[Rule]>,
    pub(crate) known: bool,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing says who asks, and not anyone may.
    #[error(
        "who asks is not known; send `Authorization: Bearer <token>`, or a client certificate that this server has in its policy"
    )]
    Unknown,
    /// The header is not one token of type Bearer.
    #[error("`Authorization` must be `Bearer` and one token")]
    Form,
    /// No such token.
    #[error("the token is not known")]
    Token,
    /// The token's time is over.
    #[error("the token of `{name}` expired at {at}")]
    Expired {
        /// Whose it is.
        name: String,
        /// When that was.
        at: Timestamp,
    },
    /// A header with a shared value is missing, or has another value.
    #[error("This {what} is restricted, expecting header '{header}'")] // Triton's words
    Restricted {
        /// `API`, or `protocol` over gRPC.
        what: &'static str,
        /// The header's name.
        header: String,
    },
    /// Known, but no rule allows this.
    #[error("`{name}` may not make calls of kind `{category}`{on}")]
    Forbidden {
        /// Who asks.
        name: String,
        /// What kind of call it is.
        category: Category,
        /// On which model, with the words around it.
        on: String,
    },
}

impl Coded for Denied {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Forbidden { .. } | Self::Restricted { .. } => ErrorCode::PermissionDenied,
            Self::Unknown | Self::Form | Self::Token | Self::Expired { .. } => {
                ErrorCode::Unauthenticated
            }
        }
    }
}

impl Policy {
    /// Says who a request comes from. A token that is not right is refused even where anyone may
    /// call, since its sender expects to be known.
    ///
    /// # Errors
    /// [`Denied`], if what it shows is not right.
    pub fn identify(&self, shown: Credentials<'_>, now: Timestamp) -> Result<Caller, Denied> {
        if let Some(value) = shown.authorization {
            return self.token(bearer(value).ok_or(Denied::Form)?, now);
        }
        let named = |client: &&Client| shown.certificate.contains(&client.certificate);
        Ok(match self.clients.iter().find(named) {
            Some(client) => client.caller.clone(),
            None => Caller {
                name: "anyone".into(),
                rules: Arc::new([]),
                anyone: self.anyone.clone(),
                known: false,
            },
        })
    }

    /// Every token is compared, whichever one it is, so that time tells nothing.
    fn token(&self, sent: &[u8], now: Timestamp) -> Result<Caller, Denied> {
        let sent = TokenHash::of(sent);
        let found = self.tokens.iter().zip(1_u32..).fold(0, |found, (token, place)| {
            u32::conditional_select(&found, &place, token.hash.same(&sent))
        });
        let token = found.checked_sub(1).and_then(|place| self.tokens.get(place as usize));
        let token = token.ok_or(Denied::Token)?;
        match token.expires {
            Some(at) if at <= now => {
                Err(Denied::Expired { name: token.caller.name.to_string(), at })
            }
            _ => Ok(token.caller.clone()),
        }
    }
}

/// The token of a `Bearer` header; the scheme's case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty() && token.iter().all(plain))
        .then_some(token)
}

impl Caller {
    /// Whether a rule allows this call.
    ///
    /// # Errors
    /// [`Denied::Unknown`] for one who did not say who they are, else [`Denied::Forbidden`].
    pub fn may(&self, category: Category, scope: Scope<'_>) -> Result<(), Denied> {
        let allows = |rule: &Rule| {
            rule.categories.contains(&category)
                && match scope {
                    Scope::Server => true,
                    Scope::Model(model) => rule.models.hold(model),
                    Scope::All => rule.models == Models::All,
                }
        };
        if self.rules.iter().chain(self.anyone.iter()).any(allows) {
            return Ok(());
        }
        if !self.known {
            return Err(Denied::Unknown);
        }
        let on = match scope {
            Scope::Server => String::new(),
            Scope::Model(model) => format!(" on model `{}`", model.escape_debug()),
            Scope::All => " on every model".to_owned(),
        };
        Err(Denied::Forbidden { name: self.name.to_string(), category, on })
    }

    /// Whether it said who it is, rightly.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Who it is, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::COMPARED;

    /// Goal: how long a refusal takes tells nothing about which tokens there are. Method: counting
    /// the comparisons, whichever token is sent.
    #[test]
    fn every_token_is_compared_whichever_is_sent() {
        let tokens = ["first", "second", "last"];
        let entry = |token: &&str| {
            let hash = TokenHash::of(token.as_bytes());
            format!(
                "[[tokens]]\nname = \"{token}\"\nsha256 = \"{hash}\"\nallow = [{{ categories = [\"*\"] }}]\n"
            )
        };
        let text: String = tokens.iter().map(entry).collect();
        let policy = Policy::from_toml(&text).unwrap();
        for sent in ["first", "second", "last", "none", "firs", "first1"] {
            COMPARED.set(0);
            let header = format!("Bearer {sent}");
            let shown = Credentials { authorization: Some(header.as_bytes()), certificate: &[] };
            let caller = policy.identify(shown, Timestamp::UNIX_EPOCH);
            assert_eq!(COMPARED.get(), tokens.len(), "{sent}");
            assert_eq!(caller.is_ok_and(|c| c.name() == sent), tokens.contains(&sent), "{sent}");
        }
    }
}
