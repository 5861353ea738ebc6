//! Who a client's certificate says it is.

use std::fmt::Write as _;

use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The names in a client's certificate, which an authority of ours has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The subject as RFC 4514 writes it, most specific first: `CN=gateway,O=example`; then
    /// alternative names: `DNS:gateway.example`, `URI:spiffe://example/gateway`.
    pub(crate) names: Vec<String>,
}

impl Identity {
    /// Reads a certificate; none if it does not parse, and then it names nobody.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let certificate = certificate.tbs_certificate();
        let mut subject = String::new();
        write!(subject, "{}", certificate.subject()).ok()?;
        let alternatives = certificate.get_extension::<SubjectAltName>().ok()?;
        let alternatives = alternatives.map(|(_, names)| names.0).unwrap_or_default();
        let alternatives = alternatives.iter().filter_map(alternative);
        Some(Self { names: [subject].into_iter().chain(alternatives).collect() })
    }
}

fn alternative(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("DNS:{}", name.as_str())),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
        _ => None,
    }
}
