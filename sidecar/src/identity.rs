//! Who this node is: the instance and its boot, the replica on its disk, and the key of its peer link.

use crate::aws::causes;
use crate::state_dir::{StateDir, StateError};
use lease::ids::{BootId, Incarnation, InstanceId, NodeId};
use lease::record::Holder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::IpAddr;

const REPLICA_FILE: &str = "replica.json";
const KEY_FILE: &str = "peer-key.pem";
const INSTANCE_FILE: &str = "instance.json";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";

/// What the instance metadata service says of this instance. Written to the state directory, so that a restart of the
/// daemon while it does not answer still knows; the answer itself, when there is one, always counts more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub instance_id: String,
    pub region: String,
    #[serde(default)]
    pub availability_zone: String,
    pub private_ip: IpAddr,
    /// The launch time of this run of the instance, RFC 3339.
    pub pending_time: String,
}

/// The answer as it is kept, with the boot that it was given to. In another boot it says nothing: the launch time is another
/// then, and "stopped" of the old launch would prove the death of a holder that lives; the instance may be another, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptInstance {
    boot: String,
    instance: Instance,
}

/// The replica's identity, made once and kept beside the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReplicaFile {
    v: u64,
    incarnation: String,
    /// The instance that made it: on another one this directory is a copy (an image, a snapshot), hence a new replica.
    instance: String,
}

/// The key of the peer link and its self-signed certificate.
#[derive(Debug)]
pub struct PeerKey {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
    /// SHA-256 of the certificate in lower-case hex: what peers pin.
    pub fingerprint: String,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "instance metadata: {problem}; the daemon needs IMDSv2 (hop limit 1 is enough) or AWS_EC2_METADATA_SERVICE_ENDPOINT"
    )]
    Metadata { problem: String },
    #[error("{what}: {problem}")]
    Unusable { what: &'static str, problem: String },
}

/// Asks the instance metadata service; its last answer to this boot stands in where it does not answer.
///
/// # Errors
/// [`IdentityError`] where there is neither.
pub async fn instance(imds: &aws_config::imds::Client, state: &StateDir) -> Result<Instance, IdentityError> {
    let boot = boot_id()?;
    let problem = match imds.get(DOCUMENT).await {
        Ok(document) => match serde_json::from_str::<Instance>(document.as_ref()) {
            Ok(instance) => {
                let kept = KeptInstance { boot: boot.to_string(), instance };
                state.write_json(INSTANCE_FILE, &kept)?;
                return Ok(kept.instance);
            }
            Err(error) => format!("{DOCUMENT}: {error}"),
        },
        Err(error) => causes(&error),
    };
    kept_instance(state, &boot, problem)
}

/// What instance metadata said to this boot before, where it does not answer because of `problem`.
fn kept_instance(state: &StateDir, boot: &BootId, problem: String) -> Result<Instance, IdentityError> {
    // What cannot be read is of another version of this program: it is no better than an old one.
    match state.read_json::<KeptInstance>(INSTANCE_FILE) {
        Ok(Some(kept)) if kept.boot == boot.as_str() => {
            tracing::warn!(
                problem,
                "instance metadata does not answer; using what it said before the daemon's restart"
            );
            Ok(kept.instance)
        }
        Ok(None) => Err(IdentityError::Metadata { problem }),
        Ok(Some(_)) | Err(_) => Err(IdentityError::Metadata {
            problem: format!("{problem}; what it said to an earlier boot does not count"),
        }),
    }
}

/// This boot of the machine, by the kernel.
fn boot_id() -> Result<BootId, IdentityError> {
    let unusable = |problem| IdentityError::Unusable { what: "boot id", problem };
    let boot =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| unusable(error.to_string()))?;
    BootId::new(boot.trim()).map_err(|error| unusable(error.to_string()))
}

/// The identity under which this process would hold the lease. `replica`: the name of its volumes, where it has any.
///
/// # Errors
/// [`IdentityError`] where the state directory or a value in it is unusable.
pub fn holder(
    node: &NodeId,
    instance: &Instance,
    replica: Option<Incarnation>,
    state: &StateDir,
) -> Result<Holder, IdentityError> {
    let unusable =
        |what| move |error: lease::ids::BadName| IdentityError::Unusable { what, problem: error.to_string() };
    Ok(Holder {
        node: node.clone(),
        incarnation: match replica {
            Some(replica) => replica,
            None => incarnation(instance, state)?,
        },
        instance: InstanceId::new(instance.instance_id.clone()).map_err(unusable("instance metadata"))?,
        boot: boot_id()?,
        launched: instance.pending_time.clone(),
    })
}

fn incarnation(instance: &Instance, state: &StateDir) -> Result<Incarnation, IdentityError> {
    if let Some(file) = state.read_json::<ReplicaFile>(REPLICA_FILE)? {
        if file.instance == instance.instance_id {
            return Incarnation::new(file.incarnation)
                .map_err(|error| IdentityError::Unusable { what: REPLICA_FILE, problem: error.to_string() });
        }
        tracing::warn!(
            made_on = file.instance,
            here = instance.instance_id,
            "state directory is a copy: a new replica"
        );
    }
    let made = Incarnation::new(random_hex(16)).expect("hex digits make a name");
    let file = ReplicaFile { v: 1, incarnation: made.to_string(), instance: instance.instance_id.clone() };
    state.write_json(REPLICA_FILE, &file)?;
    Ok(made)
}

/// The peer link's key: made at the first start, kept since. On another instance (a copied disk) it is made anew, so
/// that no two nodes have the same.
///
/// # Errors
/// [`IdentityError`] where it can neither be read nor made.
pub fn peer_key(node: &NodeId, instance: &Instance, state: &StateDir) -> Result<PeerKey, IdentityError> {
    let name = format!("{}.{node}.leasehold", instance.instance_id);
    if let Some(pem) = state.read(KEY_FILE)? {
        let key = parse_key(&pem)?;
        if contains(&key.certificate, instance.instance_id.as_bytes()) {
            return Ok(key);
        }
        tracing::warn!(here = instance.instance_id, "the peer key was made on another instance: making a new one");
    }
    let unusable =
        |error: rcgen::Error| IdentityError::Unusable { what: "making the peer key", problem: error.to_string() };
    let pair = rcgen::KeyPair::generate().map_err(unusable)?;
    let mut params = rcgen::CertificateParams::new(vec![name.clone()]).map_err(unusable)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&pair).map_err(unusable)?;
    let pem = format!("{}{}", pair.serialize_pem(), certificate.pem());
    state.write(KEY_FILE, pem.as_bytes())?;
    parse_key(pem.as_bytes())
}

/// The instance's id stands in the certificate's name.
fn contains(certificate: &[u8], needle: &[u8]) -> bool {
    certificate.windows(needle.len()).any(|window| window == needle)
}

fn parse_key(pem: &[u8]) -> Result<PeerKey, IdentityError> {
    let unusable = |error: rustls::pki_types::pem::Error| IdentityError::Unusable {
        what: KEY_FILE,
        problem: format!("{error:?}; remove the file to have a new key made"),
    };
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(unusable)?;
    let certificate = CertificateDer::from_pem_slice(pem).map_err(unusable)?;
    let fingerprint = fingerprint(&certificate);
    Ok(PeerKey { certificate, key, fingerprint })
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    hex(&Sha256::digest(certificate))
}

/// Random bytes as lower-case hex.
///
/// # Panics
/// Where the kernel gives no random bytes: nothing that needs to be unique can be made then.
#[must_use]
pub fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("the kernel's random source");
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::tests::Scratch;

    fn instance(id: &str) -> Instance {
        serde_json::from_value(serde_json::json!({
            "instanceId": id, "region": "ap-northeast-1", "availabilityZone": "ap-northeast-1a", "privateIp": "10.0.1.10",
            "pendingTime": "2026-01-01T00:00:00Z", "accountId": "123456789012"
        }))
        .expect("an identity document")
    }

    #[test]
    fn identity_is_made_once_and_kept() {
        let scratch = Scratch::new();
        let node = NodeId::new("a").expect("a name");
        let (first, key) = {
            let state = StateDir::open(scratch.path()).expect("open");
            (
                holder(&node, &instance("i-0a"), None, &state).expect("made"),
                peer_key(&node, &instance("i-0a"), &state).expect("made"),
            )
        };
        let state = StateDir::open(scratch.path()).expect("open again");
        assert_eq!(holder(&node, &instance("i-0a"), None, &state).expect("kept"), first);
        assert_eq!(peer_key(&node, &instance("i-0a"), &state).expect("kept").fingerprint, key.fingerprint);
        assert_eq!(first.launched, "2026-01-01T00:00:00Z");
    }

    /// Else "stopped", said late of the launch before, would be taken as the death of a holder that lives.
    #[test]
    fn what_metadata_said_to_an_earlier_boot_does_not_count() {
        let scratch = Scratch::new();
        let state = StateDir::open(scratch.path()).expect("open");
        let (boot, other) = (BootId::new("boot-1").expect("an id"), BootId::new("boot-2").expect("an id"));
        let told = |boot: &BootId| kept_instance(&state, boot, "no answer".into());
        assert!(told(&boot).is_err(), "it never answered");
        let kept = KeptInstance { boot: boot.to_string(), instance: instance("i-0a") };
        state.write_json(INSTANCE_FILE, &kept).expect("write");
        assert_eq!(told(&boot).expect("the same boot"), instance("i-0a"));
        let error = told(&other).expect_err("another boot").to_string();
        assert!(error.contains("no answer; what it said to an earlier boot does not count"), "{error}");
        state.write_json(INSTANCE_FILE, &instance("i-0a")).expect("write");
        assert!(told(&boot).is_err(), "kept by a program that did not note the boot");
    }

    #[test]
    fn a_cloned_disk_is_a_new_replica_with_a_new_key() {
        let scratch = Scratch::new();
        let node = NodeId::new("a").expect("a name");
        let state = StateDir::open(scratch.path()).expect("open");
        let here = holder(&node, &instance("i-0a"), None, &state).expect("made");
        let key = peer_key(&node, &instance("i-0a"), &state).expect("made");
        let there = holder(&node, &instance("i-0b"), None, &state).expect("made anew");
        assert_ne!(here.incarnation, there.incarnation);
        assert_ne!(key.fingerprint, peer_key(&node, &instance("i-0b"), &state).expect("made anew").fingerprint);
    }

    #[test]
    fn a_damaged_key_says_what_to_do() {
        let scratch = Scratch::new();
        let state = StateDir::open(scratch.path()).expect("open");
        state.write(KEY_FILE, b"nonsense").expect("write");
        let error = peer_key(&NodeId::new("a").expect("a name"), &instance("i-0a"), &state).expect_err("damaged");
        assert!(error.to_string().contains("remove the file"), "{error}");
    }
}
