//! TLS of the NBD server: its certificate, and whose certificates it accepts.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the server's certificate is.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, and those that lead to the authority, in PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of this authority. Without it, who can connect is let in.
    pub client_authority: Option<PathBuf>,
}

/// What is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read as PEM ({source}): it needs {wanted}")]
    Pem { path: PathBuf, wanted: &'static str, source: pem::Error },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("{path} cannot be the authority of clients: {source}")]
    Authority { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("certificate {certificate} and key {key} do not serve together: {source}")]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// TLS 1.3 or 1.2, as the specification of NBD allows.
///
/// # Errors
/// Where a file is not what it should be.
pub fn load(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has both versions");
    let clients = match &files.client_authority {
        None => versions.with_no_client_auth(),
        Some(path) => {
            let bad = |source| TlsError::Authority { path: path.clone(), source };
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| bad(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            versions.with_client_cert_verifier(verifier.build().map_err(|error| bad(error.into()))?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        wanted: "a private key",
        source,
    })?;
    let config = clients.with_single_cert(certificates(&files.certificate)?, key).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |source| TlsError::Pem { path: path.to_owned(), wanted: "certificates", source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}
