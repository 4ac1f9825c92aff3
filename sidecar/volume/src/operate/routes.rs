//! The volumes' part of the admin socket.

use super::{Operated, Undone};
use crate::core::Command;
use crate::ids::VolumeNo;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use lease::ids::Incarnation;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a command is told: done, with the number of the verification that it began or that is the last; or why not.
type Told = Result<Json<Done>, (StatusCode, String)>;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    pub verification: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// `None`: all volumes.
    pub volume: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    pub incarnation: String,
}

/// The commands. `find` gives the volumes, once there are some.
pub fn commands<F>(find: F) -> Router
where
    F: Fn() -> Result<Operated, String> + Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/volumes/verify", post(verify::<F>))
        .route("/volumes/resync", post(resync::<F>))
        .route("/volumes/forget-peer", post(forget::<F>))
        .with_state(find)
}

/// All of an admin socket where there is no node: its status has volumes and nothing else.
pub fn alone(operated: Operated) -> Router {
    let shown = operated.clone();
    let status = move || async move { Json(json!({"node": "here", "peers": [], "volumes": shown.status()})) };
    Router::new().route("/status", get(status)).merge(commands(move || Ok(operated.clone())))
}

fn refused(status: StatusCode, why: impl ToString) -> (StatusCode, String) {
    (status, why.to_string())
}

async fn verify<F: Fn() -> Result<Operated, String>>(State(find): State<F>, Json(asked): Json<Verify>) -> Told {
    let operated = find().map_err(|why| refused(StatusCode::CONFLICT, why))?;
    let number = |name: &String| {
        let at = operated.names.iter().position(|known| known == name);
        let known = operated.names.join(", ");
        let unknown =
            || refused(StatusCode::NOT_FOUND, format!("there is no volume {name:?} here; there are: {known}"));
        at.and_then(|at| u32::try_from(at).ok()).map(VolumeNo).ok_or_else(unknown)
    };
    let volume = asked.volume.as_ref().map(number).transpose()?;
    let bytes_s = operated.verify_mib_s << 20;
    tell(&operated, Command::Verify { volume, bytes_s }).await
}

async fn resync<F: Fn() -> Result<Operated, String>>(State(find): State<F>, Json(asked): Json<Replica>) -> Told {
    let (operated, peer) = peer(&find, asked)?;
    tell(&operated, Command::Resync(peer)).await
}

async fn forget<F: Fn() -> Result<Operated, String>>(State(find): State<F>, Json(asked): Json<Replica>) -> Told {
    let (operated, peer) = peer(&find, asked)?;
    tell(&operated, Command::Forget(peer)).await
}

fn peer(
    find: &impl Fn() -> Result<Operated, String>,
    asked: Replica,
) -> Result<(Operated, Incarnation), (StatusCode, String)> {
    let operated = find().map_err(|why| refused(StatusCode::CONFLICT, why))?;
    let name = Incarnation::new(asked.incarnation).map_err(|why| refused(StatusCode::BAD_REQUEST, why))?;
    Ok((operated, name))
}

async fn tell(operated: &Operated, command: Command) -> Told {
    match operated.commander.command(command).await {
        Ok(verification) => Ok(Json(Done { verification })),
        Err(why @ Undone::Objection(_)) => Err(refused(StatusCode::CONFLICT, why)),
        Err(why @ Undone::Ended) => Err(refused(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}
