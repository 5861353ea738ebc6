//! The one place that says who may make which call, above every protocol.
//!
//! A request is judged by the same table that finds its call, so that there is no second spelling
//! of a path to get past here; what the table does not have goes no further. Calls whose body
//! names a model carry their [`Caller`] along and are judged again once that is read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, Request, Response, header};
use jiff::Timestamp;
use mizzen_serving_auth::{Caller, Credentials, Denied, Policy, PolicyError, Restricted, Scope};
use mizzen_serving_core::Category;
use mizzen_serving_grpc::GrpcService;
use mizzen_serving_http::{Chunks, V2Service};
use mizzen_types::{Coded, ErrorCode};
use tracing::info;

use crate::transport::Peer;

/// Why the policy's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It cannot be read.
    #[error("cannot read the policy file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It cannot be used.
    #[error("the policy file `{path}` is not usable")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PolicyError,
    },
}

impl Coded for AuthError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } => source.code(),
            Self::Content { source, .. } => source.code(),
        }
    }
}

/// A policy that follows its file.
pub(crate) struct PolicyFile {
    path: PathBuf,
    text: Mutex<String>,
    policy: ArcSwap<Policy>,
}

impl PolicyFile {
    /// Reads the file. Blocks.
    pub(crate) fn load(path: PathBuf) -> Result<Self, AuthError> {
        let text = read(&path)?;
        let policy = ArcSwap::from_pointee(parse(&path, &text)?);
        Ok(Self { path, text: Mutex::new(text), policy })
    }

    /// Reads the file again; true if it had changed. Blocks.
    pub(crate) fn refresh(&self) -> Result<bool, AuthError> {
        let now = read(&self.path)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if *text == now {
            return Ok(false);
        }
        self.policy.store(Arc::new(parse(&self.path, &now)?));
        *text = now;
        Ok(true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn read(path: &Path) -> Result<String, AuthError> {
    let read = fs::read_to_string(path);
    read.map_err(|source| AuthError::Read { path: path.to_owned(), source })
}

/// YAML by its ending, else TOML.
fn parse(path: &Path, text: &str) -> Result<Policy, AuthError> {
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let policy = if yaml { Policy::from_yaml(text) } else { Policy::from_toml(text) };
    policy.map_err(|source| AuthError::Content { path: path.to_owned(), source })
}

/// Boxed, because it is the rarer way out and much the larger one.
fn refuse(denied: Denied) -> Box<Response<Chunks>> {
    Box::new(V2Service::refuse(denied))
}

/// Which calls are let through to one listener's protocol.
#[derive(Clone)]
pub(crate) struct Guard {
    policy: Option<Arc<PolicyFile>>,
    restricted: Arc<Restricted>,
    /// Triton's word for what is restricted.
    what: &'static str,
}

impl Guard {
    pub(crate) fn new(
        policy: Option<Arc<PolicyFile>>,
        restricted: Restricted,
        what: &'static str,
    ) -> Self {
        Self { policy, restricted: Arc::new(restricted), what }
    }

    /// Whether every call is let through.
    fn open(&self) -> bool {
        self.policy.is_none() && self.restricted.is_empty()
    }

    /// Lets a REST request through, or gives its answer.
    pub(crate) fn http<B>(
        &self,
        peer: &Peer,
        request: &mut Request<B>,
    ) -> Result<(), Box<Response<Chunks>>> {
        if self.open() {
            return Ok(());
        }
        let caller = self.identify(peer, request.headers()).map_err(refuse)?;
        let target = match V2Service::classify(request.method(), request.uri().path()) {
            Ok(target) => target,
            // What there is not is told to those who may call at all.
            Err(answer) => {
                return Err(match caller {
                    Some(caller) if !caller.is_known() => refuse(Denied::Unknown),
                    _ => answer,
                });
            }
        };
        let verdict = self.judge(&caller, request.headers(), target.category, target.scope());
        self.pass(peer, caller, verdict, request).map_err(refuse)
    }

    /// Lets a gRPC call through, or gives its answer.
    pub(crate) fn grpc<B>(&self, peer: &Peer, request: &mut Request<B>) -> Result<(), Denied> {
        if self.open() {
            return Ok(());
        }
        let caller = self.identify(peer, request.headers())?;
        let verdict = match GrpcService::classify(request.uri().path()) {
            Some((category, scope)) => self.judge(&caller, request.headers(), category, scope),
            None => match &caller {
                Some(caller) if !caller.is_known() => Err(Denied::Unknown),
                _ => Ok(()), // it has no call behind it: routing says so in gRPC's own words
            },
        };
        self.pass(peer, caller, verdict, request)
    }

    /// Lets any call of a known caller through, for services whose calls are of no category.
    pub(crate) fn known<B>(&self, peer: &Peer, request: &mut Request<B>) -> Result<(), Denied> {
        if self.open() {
            return Ok(());
        }
        let caller = self.identify(peer, request.headers())?;
        let verdict = match &caller {
            Some(caller) if !caller.is_known() => Err(Denied::Unknown),
            _ => Ok(()),
        };
        self.pass(peer, caller, verdict, request)
    }

    /// Lets a look at the metrics through, or gives its answer.
    pub(crate) fn metrics<B>(
        &self,
        peer: &Peer,
        request: &mut Request<B>,
    ) -> Result<(), Box<Response<Chunks>>> {
        if self.open() {
            return Ok(());
        }
        let caller = self.identify(peer, request.headers()).map_err(refuse)?;
        let verdict = self.judge(&caller, request.headers(), Category::Metrics, Scope::All);
        self.pass(peer, caller, verdict, request).map_err(refuse)
    }

    /// Who asks; none where there is no policy.
    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<Caller>, Denied> {
        let Some(file) = &self.policy else { return Ok(None) };
        let mut sent = headers.get_all(header::AUTHORIZATION).iter();
        let (authorization, more) = (sent.next(), sent.next());
        if more.is_some() {
            return Err(Denied::Form); // which of them counts is not for us to guess
        }
        let shown = Credentials {
            authorization: authorization.map(|value| value.as_bytes()),
            certificate: peer.identity.as_ref().map_or(&[], |identity| &identity.names),
        };
        file.policy.load().identify(shown, Timestamp::now()).map(Some)
    }

    fn judge(
        &self,
        caller: &Option<Caller>,
        headers: &HeaderMap,
        category: Category,
        scope: Scope<'_>,
    ) -> Result<(), Denied> {
        if let Some(caller) = caller {
            caller.may(category, scope)?;
        }
        let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
        self.restricted
            .check(category, value)
            .map_err(|header| Denied::Restricted { what: self.what, header: header.to_owned() })
    }

    fn pass<B>(
        &self,
        peer: &Peer,
        caller: Option<Caller>,
        verdict: Result<(), Denied>,
        request: &mut Request<B>,
    ) -> Result<(), Denied> {
        if let Err(denied) = &verdict
            && denied.code() == ErrorCode::PermissionDenied
        {
            let name = caller.as_ref().map(Caller::name);
            info!(from = %peer.address, caller = ?name, reason = %denied, "call refused");
        }
        verdict?;
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        Ok(())
    }
}
