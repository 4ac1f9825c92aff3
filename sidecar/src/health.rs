//! What a load balancer's health check is answered: 200 while this node serves and its resources are well, else 503. A check by TCP alone
//! tells as much: the port is closed then ([`crate::ports`]).

use crate::ports::State;
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// On all of this machine's addresses, of both families where it has both.
///
/// # Errors
/// The port is in use, or may not be had.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        other => other,
    }
}

const EAFNOSUPPORT: i32 = nix::errno::Errno::EAFNOSUPPORT as i32;

/// Answers, for good, whatever path is asked for.
///
/// # Errors
/// The listener's.
pub async fn answer(listener: TcpListener, state: watch::Receiver<State>) -> io::Result<()> {
    axum::serve(listener, Router::new().fallback(healthy).with_state(state)).await
}

async fn healthy(Shared(state): Shared<watch::Receiver<State>>) -> (StatusCode, &'static str) {
    if state.borrow().healthy {
        (StatusCode::OK, "active\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not active, or a resource is not well: leasehold status tells more\n")
    }
}
