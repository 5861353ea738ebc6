//! What the security flags of `mizzen serve` come to.

use std::path::PathBuf;

use mizzen_serving_auth::Restricted;
use mizzen_serving_server::{OutletOptions, ServerOptions, TlsFiles, TlsOptions};
use mizzen_types::ErrorCode;

use super::ServeSettings;
use crate::failure::{Failure, Result};

impl ServeSettings {
    /// The defaults, with what these flags say.
    pub(super) fn secured(&self) -> Result<ServerOptions> {
        let http = restricted("--http-restricted-api", &self.http_restricted_api, "")?;
        let grpc = "--grpc-restricted-protocol";
        let grpc = restricted(grpc, &self.grpc_restricted_protocol, "triton-grpc-protocol-")?;
        Ok(ServerOptions {
            tls: self.tls()?,
            auth_file: self.auth_file.clone(),
            http_restricted: http,
            grpc_restricted: grpc,
            metrics_open: self.metrics_open,
            ..ServerOptions::default()
        })
    }

    /// How other machines are let in to a gRPC endpoint beside the model server's: as to that one.
    pub(crate) fn outlet(&self) -> Result<OutletOptions> {
        Ok(OutletOptions {
            tls: self.tls()?.grpc,
            auth_file: self.auth_file.clone(),
            allow_remote: self.allow_remote,
            ..OutletOptions::local("katib", 0)
        })
    }

    /// The TLS of each endpoint: one set of files for all, Triton's flags for gRPC over it.
    pub(crate) fn tls(&self) -> Result<TlsOptions> {
        let all = pair(["--tls-cert", "--tls-key"], &self.tls_cert, &self.tls_key)?
            .map(|(cert, key)| TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() });
        if all.is_none() && self.tls_client_ca.is_some() {
            return Err(wrong("--tls-client-ca needs --tls-cert and --tls-key".to_owned()));
        }
        let metrics = if self.metrics_open { None } else { all.clone() };
        Ok(TlsOptions { grpc: self.grpc_tls(all.clone())?, http: all, metrics })
    }

    fn grpc_tls(&self, all: Option<TlsFiles>) -> Result<Option<TlsFiles>> {
        let mutual = self.grpc_use_ssl_mutual.unwrap_or(false);
        let own = ["--grpc-server-cert", "--grpc-server-key"];
        let own = pair(own, &self.grpc_server_cert, &self.grpc_server_key)?;
        if !(mutual || self.grpc_use_ssl.unwrap_or(false)) {
            // Triton would ignore the files and speak in plain text.
            return match own.is_some() || self.grpc_root_cert.is_some() {
                true => Err(wrong(
                    "--grpc-server-cert, --grpc-server-key and --grpc-root-cert need --grpc-use-ssl or --grpc-use-ssl-mutual"
                        .to_owned(),
                )),
                false => Ok(all),
            };
        }
        let (files, client_ca) = match (own, all) {
            (Some(own), all) => (own, all.and_then(|all| all.client_ca)),
            (None, Some(all)) => ((all.cert, all.key), all.client_ca),
            (None, None) => {
                return Err(wrong(
                    "--grpc-use-ssl needs --grpc-server-cert and --grpc-server-key (or --tls-cert and --tls-key)"
                        .to_owned(),
                ));
            }
        };
        let client_ca =
            match mutual {
                true => Some(self.grpc_root_cert.clone().or(client_ca).ok_or_else(|| {
                    wrong("--grpc-use-ssl-mutual needs --grpc-root-cert".to_owned())
                })?),
                false => client_ca,
            };
        Ok(Some(TlsFiles { cert: files.0, key: files.1, client_ca }))
    }
}

fn restricted(flag: &str, texts: &[String], prefix: &str) -> Result<Restricted> {
    let mut restricted = Restricted::default();
    for text in texts {
        let added = restricted.add(text, prefix);
        added.map_err(|error| wrong(format!("{flag} is not usable: {error}")))?;
    }
    Ok(restricted)
}

/// Both files or none.
fn pair(
    flags: [&str; 2],
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert.clone(), key.clone()))),
        (None, None) => Ok(None),
        _ => Err(wrong(format!("{} and {} go together; give both", flags[0], flags[1]))),
    }
}

fn wrong(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(cert: &str, client_ca: Option<&str>) -> Option<TlsFiles> {
        let key = PathBuf::from(cert.replace("cert", "key"));
        Some(TlsFiles { cert: cert.into(), key, client_ca: client_ca.map(PathBuf::from) })
    }

    fn all() -> ServeSettings {
        ServeSettings {
            tls_cert: Some("cert".into()),
            tls_key: Some("key".into()),
            ..ServeSettings::default()
        }
    }

    fn grpc() -> ServeSettings {
        ServeSettings {
            grpc_server_cert: Some("gcert".into()),
            grpc_server_key: Some("gkey".into()),
            ..ServeSettings::default()
        }
    }

    #[test]
    fn files_are_for_all_or_for_grpc() {
        let ca = || Some(PathBuf::from("ca"));
        let yes = Some(true);
        let none = TlsOptions::default();
        #[rustfmt::skip]
        let cases = [
            // what the case shows, flags, want
            ("nothing",          ServeSettings::default(), none.clone()),
            ("one for all",      all(),
             TlsOptions { http: files("cert", None), grpc: files("cert", None), metrics: files("cert", None) }),
            ("open metrics",     ServeSettings { metrics_open: true, ..all() },
             TlsOptions { http: files("cert", None), grpc: files("cert", None), metrics: None }),
            ("gRPC alone",       ServeSettings { grpc_use_ssl: yes, ..grpc() },
             TlsOptions { grpc: files("gcert", None), ..none.clone() }),
            ("gRPC mutual",      ServeSettings { grpc_use_ssl_mutual: yes, grpc_root_cert: ca(), ..grpc() },
             TlsOptions { grpc: files("gcert", Some("ca")), ..none.clone() }),
            ("root, not mutual", ServeSettings { grpc_use_ssl: yes, grpc_root_cert: ca(), ..grpc() },
             TlsOptions { grpc: files("gcert", None), ..none.clone() }),
            ("its own over all", ServeSettings { grpc_use_ssl: yes, tls_cert: Some("cert".into()), tls_key: Some("key".into()), tls_client_ca: ca(), ..grpc() },
             TlsOptions { http: files("cert", Some("ca")), grpc: files("gcert", Some("ca")), metrics: files("cert", Some("ca")) }),
        ];
        for (shows, flags, want) in cases {
            assert_eq!(flags.tls().ok(), Some(want), "{shows}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let yes = Some(true);
        let default = ServeSettings::default;
        #[rustfmt::skip]
        let cases = [
            ("--tls-cert and --tls-key go together", ServeSettings { tls_cert: Some("c".into()), ..default() }),
            ("--tls-client-ca needs --tls-cert",     ServeSettings { tls_client_ca: Some("c".into()), ..default() }),
            ("need --grpc-use-ssl",                  grpc()),
            ("needs --grpc-server-cert",             ServeSettings { grpc_use_ssl: yes, ..default() }),
            ("needs --grpc-root-cert",               ServeSettings { grpc_use_ssl_mutual: yes, ..grpc() }),
        ];
        for (want, flags) in cases {
            let error = format!("{:?}", flags.tls().unwrap_err());
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
