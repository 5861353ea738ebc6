//! TLS: certificates from files, read again when they change.
//!
//! By rustls over ring. A file that cannot be used is an error at start and a warning later, when
//! the certificate in use goes on. Connections keep what they began with; sessions are not resumed
//! across a change, so that a client whose authority was taken away does not come back by a ticket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use mizzen_types::{Coded, ErrorCode};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};

/// The files of one listener's TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and the authority clients know.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates clients must show; without, clients show none.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {role} `{path}`")]
    Read {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not have what it should.
    #[error("the {role} `{path}` is not usable: {reason}")]
    Content {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected and what came; never what the file says.
        reason: String,
    },
    /// Certificate and key do not make a pair, or are of a kind that TLS no longer takes.
    #[error("the certificate `{cert}` and the key `{key}` cannot be used together")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

impl Coded for TlsError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } => source.code(),
            Self::Content { .. } | Self::Pair { .. } => ErrorCode::InvalidArgument,
        }
    }
}

/// What a listener speaks once TLS is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1 and HTTP/2, as the client chooses; HTTP/1.1 if it does not say.
    Http,
    /// HTTP/2 alone, said or not.
    Grpc,
}

impl Speaks {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Grpc => vec![b"h2".to_vec()],
        }
    }

    /// Whether a client that chose this protocol, or none, speaks HTTP/2.
    pub(crate) fn http2(self, chosen: Option<&[u8]>) -> bool {
        chosen.map_or(self == Self::Grpc, |name| name == b"h2")
    }
}

/// One listener's TLS.
pub(crate) struct Tls {
    pub(crate) speaks: Speaks,
    files: TlsFiles,
    read: Mutex<Material>,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files. Blocks.
    pub(crate) fn load(files: TlsFiles, speaks: Speaks) -> Result<Self, TlsError> {
        let read = Material::read(&files)?;
        let config = ArcSwap::from_pointee(read.config(&files, speaks)?);
        Ok(Self { speaks, files, read: Mutex::new(read), config })
    }

    /// What a new connection uses.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the files again; true if they had changed. By content, because a file may be replaced
    /// through links and keep its time. Blocks.
    ///
    /// # Errors
    /// What is wrong with them now; nothing has changed for connections then.
    pub(crate) fn refresh(&self) -> Result<bool, TlsError> {
        let now = Material::read(&self.files)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if *read == now {
            return Ok(false);
        }
        self.config.store(Arc::new(now.config(&self.files, self.speaks)?));
        *read = now;
        Ok(true)
    }

    pub(crate) fn cert(&self) -> &Path {
        &self.files.cert
    }
}

/// The files as they were read.
#[derive(PartialEq, Eq)]
struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

const CERT: &str = "certificate file";
const KEY: &str = "key file";
const CLIENT_CA: &str = "file of client authorities";

impl Material {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |role, path: &PathBuf| {
            fs::read(path).map_err(|source| TlsError::Read { role, path: path.clone(), source })
        };
        Ok(Self {
            cert: read(CERT, &files.cert)?,
            key: read(KEY, &files.key)?,
            client_ca: files.client_ca.as_ref().map(|path| read(CLIENT_CA, path)).transpose()?,
        })
    }

    fn config(&self, files: &TlsFiles, speaks: Speaks) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(CERT, &files.cert, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsError::Content {
            role: KEY,
            path: files.key.clone(),
            reason: format!("expected one PEM private key without a passphrase ({error})"),
        })?;
        let clients = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => client_verifier(path, pem, &provider)?,
            _ => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Pair {
                cert: files.cert.clone(),
                key: files.key.clone(),
                source,
            })?;
        config.alpn_protocols = speaks.alpn();
        Ok(config)
    }
}

fn certificates(
    role: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason| TlsError::Content { role, path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unusable(format!("it is not PEM ({error})")))?;
    if found.is_empty() {
        return Err(unusable("expected PEM certificates and found none".to_owned()));
    }
    Ok(found)
}

fn client_verifier(
    path: &Path,
    pem: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |reason| TlsError::Content { role: CLIENT_CA, path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for authority in certificates(CLIENT_CA, path, pem)? {
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(error.to_string()))
}
