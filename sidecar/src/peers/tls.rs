//! TLS 1.3 between members, both sides with a self-signed certificate that the other knows by its fingerprint. No
//! authority, no names, no validity dates: a pin is stronger than all of them, and no wall clock decides.

use super::pins::Pins;
use super::refusal::Refusal;
use crate::identity::{PeerKey, fingerprint};
use crate::tls;
use lease::ids::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;

/// Believes members' keys and nobody else's.
#[derive(Debug)]
struct Verifier {
    pins: Arc<Pins>,
    /// The member that is dialled; `None`: any member is one.
    expected: Option<NodeId>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Refusal> {
        let fingerprint = fingerprint(certificate);
        let Some(owner) = self.pins.owner(&fingerprint) else { return Err(Refusal::UnpinnedKey { fingerprint }) };
        match &self.expected {
            Some(claimed) if *claimed != owner => {
                Err(Refusal::KeyOfAnother { fingerprint, owner, claimed: claimed.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn carry(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// What both directions share. The certificate is only a name for the key; the signature shows that the other side has it.
macro_rules! signatures {
    () => {
        /// The only version spoken is 1.3, so this is never asked.
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken here".into()))
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion()).map_err(carry)
    }
    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion()).map_err(carry)
    }
    signatures!();
}

/// For dialling `peer`, or any member.
///
/// # Errors
/// Where the key does not fit its certificate.
pub fn client(key: &PeerKey, pins: Arc<Pins>, peer: Option<NodeId>) -> Result<Arc<ClientConfig>, Error> {
    let provider = tls::provider();
    let verifier = Arc::new(Verifier { pins, expected: peer, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![key.certificate.clone()], key.key.clone_key())?;
    // A resumed session would skip the pin.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// For being dialled by any member.
///
/// # Errors
/// Where the key does not fit its certificate.
pub fn server(key: &PeerKey, pins: Arc<Pins>) -> Result<Arc<ServerConfig>, Error> {
    let provider = tls::provider();
    let verifier = Arc::new(Verifier { pins, expected: None, provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![key.certificate.clone()], key.key.clone_key())?;
    // A resumed session would skip the pin.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The refusal inside a TLS error: this side's own, or the peer's as far as an alert can tell.
#[must_use]
pub fn refusal_in(error: &std::io::Error) -> Option<Refusal> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Refusal>().cloned()
        }
        // What the other side of `carry` sends.
        Error::AlertReceived(AlertDescription::CertificateUnknown) => Some(Refusal::ByPeer {
            cause: "unpinned_key".into(),
            message:
                "it does not know this node's key yet, or knows it as another's; it looks at this node's heartbeat next"
                    .into(),
        }),
        _ => None,
    }
}
