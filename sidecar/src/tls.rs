//! The cryptography that this program uses: ring, chosen once.

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// Makes ring the process's provider. Called first in `main`; calling it again changes nothing.
pub fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The provider itself, for those who name it.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
