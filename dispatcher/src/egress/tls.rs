//! The TLS settings of outgoing connections.
//!
//! Mozilla's roots are compiled in, so that a container without a certificate store works; an operator may add
//! authorities of his own. The cryptography is named explicitly: nothing depends on what the process installed.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::target::Origin;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The extra authorities are not certificates in PEM form.
    #[error("cannot read the extra certificate authorities")]
    ExtraCa(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cryptography does not fit.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// A connector that trusts Mozilla's roots and those in `extra_ca`, a list of certificates in PEM form (or empty).
pub(crate) fn connector(extra_ca: &[u8]) -> Result<TlsConnector, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(extra_ca) {
        let certificate = certificate.map_err(|error| TlsError::ExtraCa(Box::new(error)))?;
        roots.add(certificate).map_err(|error| TlsError::ExtraCa(Box::new(error)))?;
        added += 1;
    }
    if added == 0 && !extra_ca.trim_ascii().is_empty() {
        return Err(TlsError::ExtraCa("there is no certificate in the file".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name the certificate must hold; for a name also the one in SNI.
pub(crate) fn server_name(origin: &Origin) -> Option<ServerName<'static>> {
    if let Some(address) = origin.literal() {
        return Some(ServerName::from(address));
    }
    let host = origin.host();
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok()
}
