//! The steps that lead a virtual IP to a node: its routes, and the node's interface accepting the packets.

use crate::cloud::{Cloud, CloudError};
use crate::topology::{InterfaceId, TableId};
use ipnet::IpNet;

/// Makes `destination` lead to `to` in `table`. `exists`: whether a route for it was described.
///
/// Acknowledges on EC2's answer to the write; whether descriptions show it is for a later look. EC2 describes late, so
/// a route may exist that was not described, or be gone that was: then the other call is made.
///
/// # Errors
/// [`CloudError`]; unanswered, it may have been applied all the same.
pub async fn ensure_route(
    cloud: &impl Cloud,
    table: &TableId,
    destination: IpNet,
    to: &InterfaceId,
    exists: bool,
) -> Result<(), CloudError> {
    if exists {
        match cloud.replace_route(table, destination, to).await {
            // Described, but gone since.
            Err(error) if error.code() == Some("InvalidRoute.NotFound") => {
                cloud.create_route(table, destination, to).await
            }
            other => other,
        }
    } else {
        match cloud.create_route(table, destination, to).await {
            Err(error) if error.code() == Some("RouteAlreadyExists") => {
                cloud.replace_route(table, destination, to).await
            }
            other => other,
        }
    }
}

/// Makes the node's interface take packets for addresses that are not its own.
///
/// # Errors
/// [`CloudError`]; unanswered, it may have been applied all the same.
pub async fn ensure_forwarding(cloud: &impl Cloud, interface: &InterfaceId) -> Result<(), CloudError> {
    cloud.let_forward(interface).await
}
