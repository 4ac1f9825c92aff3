//! The daemon's one configuration file. What the whole cluster shares (members, addresses, timers) stands in the
//! cluster's configuration item instead, so that no two nodes can disagree about it.

use crate::resources::mount::Mount;
use crate::resources::{Check, Kind, Resource, Script};
use lease::fields::{Fields, Problems, millis, number, parsed, text, texts};
use lease::ids::{ClusterId, NodeId};
use lease::time::Millis;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use volume::core::Follow;
use volume::core::rate::Limits;
use volume::drive::Compress;
use volume::drive::undo::{Place, UNDO_MIB, UNDO_MIB_MOST};
use volume::frontends::device;
use volume::operate::{VERIFY_MIB_S, VERIFY_MIB_S_LEAST, VERIFY_MIB_S_MOST, resync_limits};

/// `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// DynamoDB table and EventBridge bus of the deployment.
    pub table: String,
    pub bus: String,
    /// Region of both; by default the one that the SDK's chain finds, which on EC2 is the instance's.
    pub region: Option<String>,
    /// Where this node keeps what must survive its restart: replica identity, key, pins. Owned by one daemon.
    pub state_dir: PathBuf,
    pub peer: PeerConfig,
    /// The interface that carries the virtual addresses while this node is active.
    pub interface: String,
    /// Where Prometheus scrapes; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The UNIX socket of the local operator.
    pub admin_socket: PathBuf,
    /// The workload's cgroup; by default `workload` inside the daemon's own.
    pub cgroup: Option<PathBuf>,
    /// How to reboot a machine that does not stop serving; by default the kernel's own way (sysrq).
    pub fence: Option<Vec<String>>,
    /// The data that is replicated between the nodes; `None`: nothing is.
    pub volumes: Option<VolumesConfig>,
    /// Started in this order, stopped in the opposite one.
    pub resources: Vec<Resource>,
}

/// The replicated volumes: one consistency group, in the same order on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumesConfig {
    /// Where the other nodes' volumes connect; the same port on each node.
    pub listen: SocketAddr,
    /// A file for the metadata; by default the end of the first backing.
    pub metadata: Option<PathBuf>,
    /// A file, and how much of it, for what a resync overwrites here; `None`: nothing of it is kept.
    pub undo: Option<Place>,
    /// How fast a verification reads, in MiB a second, on each node that it compares.
    pub verify_mib_s: u64,
    pub resync: Limits,
    /// How this node's replica follows whoever is active.
    pub follow: Follow,
    /// How what this node sends to the others is compressed.
    pub compress: Compress,
    pub volumes: Vec<VolumeConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    pub name: String,
    /// The device or file that holds the data.
    pub backing: PathBuf,
    /// Where the volume is served by NBD while this node is active; `None`: only as a device.
    pub socket: Option<PathBuf>,
    /// The block device that the volume is while this node is active, `/dev/leasehold/NAME`.
    pub device: Option<device::Name>,
    /// By which of the kernel's drivers it is one.
    pub driver: device::Driver,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub listen: SocketAddr,
    /// Where peers reach it; by default the instance's primary private address and `listen`'s port.
    pub advertise: Option<SocketAddr>,
}

/// Why there is no configuration. The text names the file in each line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {error}; `leasehold node` takes its file by --config", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: not TOML: {problem}", path.display())]
    NotToml { path: PathBuf, problem: String },
    #[error("{}", problems.0.iter().map(|problem| format!("{}: {problem}", path.display())).collect::<Vec<_>>().join("\n"))]
    Wrong { path: PathBuf, problems: Problems },
}

impl NodeConfig {
    /// # Errors
    /// [`ConfigError`], with every mistake at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let content =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let value: Value = toml::from_str(&content)
            .map_err(|error| ConfigError::NotToml { path: path.to_owned(), problem: error.to_string() })?;
        Self::read(&value).map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    /// # Errors
    /// [`Problems`], with every mistake at once.
    pub fn read(value: &Value) -> Result<Self, Problems> {
        let mut top = Fields::of("", value).map_err(|problem| Problems(vec![problem]))?;
        let cluster = top.required("cluster", "the cluster's name", parsed::<ClusterId>);
        let node = top.required("node", "this node's name in the cluster", parsed::<NodeId>);
        let table = top.required("table", "the deployment's DynamoDB table", text);
        let bus = top.required("bus", "the deployment's EventBridge bus", text);
        let region = top.optional("region", text);
        let state_dir = top.optional("state_dir", absolute).unwrap_or_else(|| PathBuf::from("/var/lib/leasehold"));
        let peer = top.table("peer", |peer| {
            let listen = peer.optional("listen", socket);
            let advertise = peer.optional("advertise", |value| {
                let address = socket(value)?;
                if address.ip().is_unspecified() || address.port() == 0 {
                    return Err("an address that peers can dial, such as 10.0.1.10:7400".into());
                }
                Ok(address)
            });
            Some((listen, advertise))
        });
        let (listen, advertise) = peer.unwrap_or_default();
        let interface = top.table("address", |address| address.optional("interface", interface_name));
        let metrics = top.table("metrics", |metrics| metrics.required("listen", "such as 127.0.0.1:9400", socket));
        let admin_socket = top.table("admin", |admin| admin.required("socket", "the socket's path", absolute));
        let cgroup = top.table("workload", |workload| workload.optional("cgroup", absolute));
        let fence = top.table("fence", |fence| fence.required("command", "the command that reboots", command));
        let group = top.table("volumes", |group| {
            let (listen, metadata) = (group.optional("listen", socket), group.optional("metadata", absolute));
            let verify = group.optional("verify_mib_s", rate);
            let floor = group.optional("resync_floor_mib_s", rate);
            let ceiling = group.optional("resync_ceiling_mib_s", rate);
            let resync = resync_limits(floor, ceiling).unwrap_or_else(|why| {
                group.bad("resync_ceiling_mib_s", &why);
                Limits::default()
            });
            let undo = (group.optional("undo", absolute), group.optional("undo_mib", undo_mib));
            let compress = group.optional("compress", |value| Compress::new(&text(value)?));
            Some((listen, metadata, verify, group.optional("follow", follow), resync, undo, compress))
        });
        let volumes = top.tables("volume", volume);
        if volumes.iter().map(|volume| &volume.name).collect::<BTreeSet<_>>().len() != volumes.len() {
            top.bad("volume", "each volume needs its own name");
        }
        let devices: Vec<String> =
            volumes.iter().filter_map(|volume| Some(volume.device.as_ref()?.to_string())).collect();
        if devices.iter().collect::<BTreeSet<_>>().len() != devices.len() {
            top.bad("volume", "each device needs its own name");
        }
        if group.is_some() && volumes.is_empty() {
            top.bad("volumes", "there is no [[volume]]");
        }
        let resources = top.tables("resource", resource);
        let distinct: BTreeSet<&str> = resources.iter().map(|resource| resource.name.as_str()).collect();
        if distinct.len() != resources.len() {
            top.bad("resource", "each resource needs its own name");
        }
        let problems = top.finish();
        match (cluster, node, table, bus) {
            (Some(cluster), Some(node), Some(table), Some(bus)) if problems.is_empty() => Ok(Self {
                cluster,
                node,
                table,
                bus,
                region,
                state_dir,
                peer: PeerConfig { listen: listen.unwrap_or_else(default_listen), advertise },
                interface: interface.unwrap_or_else(|| "lo".into()),
                metrics,
                admin_socket: admin_socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
                cgroup,
                fence,
                volumes: (!volumes.is_empty()).then(|| {
                    let (listen, metadata, verify, follow, resync, (undo, undo_mib), compress) =
                        group.unwrap_or_default();
                    let limit = undo_mib.unwrap_or(UNDO_MIB) << 20;
                    let undo = undo.map(|path| Place { path, limit });
                    let listen = listen.unwrap_or_else(default_volumes_listen);
                    let (verify_mib_s, follow) = (verify.unwrap_or(VERIFY_MIB_S), follow.unwrap_or_default());
                    let compress = compress.unwrap_or_default();
                    VolumesConfig { listen, metadata, undo, verify_mib_s, follow, resync, compress, volumes }
                }),
                resources,
            }),
            _ => Err(Problems(problems)),
        }
    }
}

/// Where the admin socket is unless the configuration says otherwise; the operator's verbs look there.
pub const DEFAULT_SOCKET: &str = volume::operate::socket::DEFAULT;

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7400))
}

fn default_volumes_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7401))
}

fn rate(value: &Value) -> Result<u64, String> {
    let rate = number(value)?;
    let allowed = VERIFY_MIB_S_LEAST..=VERIFY_MIB_S_MOST;
    let why = || format!("MiB a second, from {VERIFY_MIB_S_LEAST} (slower, it never ends) to {VERIFY_MIB_S_MOST}");
    allowed.contains(&rate).then_some(rate).ok_or_else(why)
}

fn undo_mib(value: &Value) -> Result<u64, String> {
    let mib = number(value)?;
    let why = || format!("MiB that the undo log may take, from 1 to {UNDO_MIB_MOST}");
    (1..=UNDO_MIB_MOST).contains(&mib).then_some(mib).ok_or_else(why)
}

fn follow(value: &Value) -> Result<Follow, String> {
    match text(value)?.as_str() {
        "sync" => Ok(Follow::Sync),
        "async" => Ok(Follow::Async),
        _ => Err("\"sync\" (in step, and can take over) or \"async\" (soon after, nothing waits for it)".into()),
    }
}

fn volume(fields: &mut Fields<'_>) -> Option<VolumeConfig> {
    let name = fields.required("name", "the volume's name", name);
    let backing = fields.required("backing", "the device or file that holds the data", absolute);
    let socket = fields.optional("socket", absolute);
    let device = fields.optional("device", |value| device::Name::new(&text(value)?));
    let driver = fields.optional("device_driver", |value| device::Driver::new(&text(value)?));
    if driver.is_some() && device.is_none() {
        fields.bad("device_driver", "is of a volume with a device: name that, too");
    }
    let driver = driver.unwrap_or_default();
    let name = name?;
    // Who asks for neither has the socket.
    let usual = || device.is_none().then(|| PathBuf::from(format!("/run/leasehold/{name}.sock")));
    let socket = socket.or_else(usual);
    Some(VolumeConfig { name, backing: backing?, socket, device, driver })
}

/// The name becomes a cgroup's directory name, or a socket's.
fn name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let fits = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits { Ok(name) } else { Err("use 1 to 40 of a-z, A-Z, 0-9, '-' and '_'".to_owned()) }
}

fn resource(fields: &mut Fields<'_>) -> Option<Resource> {
    let name = fields.required("name", "the resource's name", name);
    let kind = fields.required("kind", "\"script\" or \"mount\"", text);
    let kind = match kind.as_deref() {
        Some("script") => script(fields).map(Kind::Script),
        Some("mount") => mount(fields).map(Kind::Mount),
        Some(_) => {
            fields.bad("kind", "use \"script\" or \"mount\"");
            None
        }
        None => None,
    };
    let start_limit = fields.optional("start_limit_ms", limit).unwrap_or(Millis(30_000));
    let stop_limit = fields.optional("stop_limit_ms", limit).unwrap_or(Millis(10_000));
    let check_limit = fields.optional("check_limit_ms", limit).unwrap_or(Millis(2_000));
    let check_every = fields.optional("check_every_ms", limit).unwrap_or(Millis(5_000));
    let failures = fields.optional("failures", |value| match number(value)? {
        failures @ 1..=100 => Ok(failures),
        _ => Err("use 1 to 100".to_owned()),
    });
    Some(Resource {
        name: name?,
        kind: kind?,
        start_limit,
        stop_limit,
        check_limit,
        check_every,
        failures: failures.unwrap_or(2),
    })
}

fn script(fields: &mut Fields<'_>) -> Option<Script> {
    let start = fields.required("start", "the command that starts it, as a list", command);
    let stop = fields.optional("stop", command);
    let check = fields.optional("check", command);
    let http = fields.optional("http", |value| {
        let url = text(value)?;
        match reqwest::Url::parse(&url) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(url),
            _ => Err("a URL such as http://10.99.0.10/health".to_owned()),
        }
    });
    if check.is_some() && http.is_some() {
        fields.bad("http", "use check or http, not both");
    }
    Some(Script { start: start?, stop, check: check.map(Check::Command).or(http.map(Check::Http)) })
}

fn mount(fields: &mut Fields<'_>) -> Option<Mount> {
    let source = fields.required("source", "the device, as a volume's `device` names it", absolute);
    let target = fields.required("target", "the folder where it is mounted", absolute);
    let fstype = fields.required("fstype", "the file system's type, such as \"ext4\"", text);
    let options = fields.optional("options", texts).unwrap_or_default();
    let make_filesystem = fields
        .optional("make_filesystem", |value| value.as_bool().ok_or_else(|| "true or false".to_owned()))
        .unwrap_or(false);
    if make_filesystem && fstype.as_ref().is_some_and(|fstype| !["ext4", "xfs"].contains(&fstype.as_str())) {
        fields.bad("make_filesystem", "only ext4 and xfs are made; make the file system yourself, on the active node");
    }
    Some(Mount { source: source?, target: target?, fstype: fstype?, options, make_filesystem })
}

fn limit(value: &Value) -> Result<Millis, String> {
    match millis(value)? {
        // Below, the scheduler alone would break it; above, no failover waits.
        limit @ Millis(100..=3_600_000) => Ok(limit),
        _ => Err("use 100 to 3600000".into()),
    }
}

fn socket(value: &Value) -> Result<SocketAddr, String> {
    parsed::<SocketAddr>(value).map_err(|_| "an address and a port, such as 10.0.1.10:7400".into())
}

fn absolute(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() { Ok(path) } else { Err("an absolute path".into()) }
}

fn interface_name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    // IFNAMSIZ is 16 with the closing zero.
    if name.len() < 16 && !name.contains(['/', ' ']) { Ok(name) } else { Err("a network interface's name".into()) }
}

fn command(value: &Value) -> Result<Vec<String>, String> {
    let words = texts(value)?;
    match words.first() {
        None => Err("a command as a list of its words, not empty".into()),
        // There is no shell and no PATH search to depend on.
        Some(program) if !program.starts_with('/') => Err("the command's first word must be an absolute path".into()),
        Some(_) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../dist/node.toml");

    fn read(text: &str) -> Result<NodeConfig, Problems> {
        NodeConfig::read(&toml::from_str(text).expect("TOML"))
    }

    #[test]
    fn the_shipped_example_is_good() {
        let config = read(EXAMPLE).expect("the example");
        assert_eq!(config.resources[0].name, "nginx");
        assert_eq!(config.resources[0].failures, 2);
        assert_eq!(config.admin_socket, Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn the_least_one_takes_the_defaults() {
        let config = read("cluster='web'\nnode='a'\ntable='t'\nbus='b'").expect("four keys are enough");
        assert_eq!(config.peer.listen, default_listen());
        assert_eq!((config.interface.as_str(), config.metrics), ("lo", None));
        assert!(config.resources.is_empty());
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let told = read(
            "cluster='Web'\ntable=''\nbus='b'\ncolour='blue'\nstate_dir='here'\n[peer]\nlisten='7400'\nadvertise='0.0.0.0:7400'\n\
             [[resource]]\nname='a b'\nkind='docker'\nstart=['nginx']\nfailures=0\n[[resource]]\nname='x'\nkind='script'\n\
             start=['/bin/x']\ncheck=['/bin/y']\nhttp='http://x/'\nstop_limit_ms=5",
        )
        .expect_err("many mistakes")
        .to_string();
        for part in [
            "cluster = \"Web\"",
            "node is missing",
            "table = \"\"",
            "colour = \"blue\": unknown key",
            "state_dir = \"here\": an absolute path",
            "peer.listen",
            "peer.advertise",
            "resource[0].name",
            "resource[0].kind = \"docker\"",
            "resource[0].start",
            "resource[0].failures = 0",
            "resource[1].http",
            "resource[1].stop_limit_ms = 5",
        ] {
            assert!(told.contains(part), "{part} in:\n{told}");
        }
    }

    #[test]
    fn volumes_take_the_defaults_and_their_mistakes_are_told() {
        let least = "cluster='web'\nnode='a'\ntable='t'\nbus='b'\n";
        let volumes = read(&format!("{least}[[volume]]\nname='data'\nbacking='/dev/nvme1n1'"))
            .expect("good")
            .volumes
            .expect("one");
        assert_eq!((volumes.listen, volumes.metadata), (default_volumes_listen(), None));
        assert_eq!((volumes.verify_mib_s, volumes.follow), (32, Follow::Sync));
        assert_eq!(volumes.resync, Limits { floor: 8 << 20, ceiling: u64::MAX });
        let paced =
            |keys: &str| read(&format!("{least}[volumes]\n{keys}\n[[volume]]\nname='data'\nbacking='/dev/sdb'"));
        let resync = |keys: &str| paced(keys).expect("good").volumes.expect("one").resync;
        assert_eq!(resync("resync_floor_mib_s=3\nresync_ceiling_mib_s=4"), Limits { floor: 3 << 20, ceiling: 4 << 20 });
        assert_eq!(resync("resync_ceiling_mib_s=4"), Limits { floor: 4 << 20, ceiling: 4 << 20 });
        let told = paced("resync_floor_mib_s=5\nresync_ceiling_mib_s=4").expect_err("upside down").to_string();
        assert!(told.contains("volumes.resync_ceiling_mib_s") && told.contains("floor, which is 5 MiB"), "{told}");
        let told = paced("resync_floor_mib_s=0").expect_err("it would never end").to_string();
        assert!(told.contains("volumes.resync_floor_mib_s = 0: MiB a second, from 1"), "{told}");
        let asynchronous = format!("{least}[volumes]\nfollow='async'\n[[volume]]\nname='data'\nbacking='/dev/nvme1n1'");
        assert_eq!(read(&asynchronous).expect("good").volumes.expect("one").follow, Follow::Async);
        assert_eq!(volumes.compress, Compress::Off);
        assert_eq!(paced("compress='lz4'").expect("good").volumes.expect("one").compress, Compress::Lz4);
        let told = paced("compress='zip'").expect_err("unknown").to_string();
        assert!(told.contains("volumes.compress = \"zip\": \"lz4\" (data"), "{told}");
        assert_eq!(volumes.undo, None);
        let kept =
            format!("{least}[volumes]\nundo='/var/undo'\nundo_mib=3\n[[volume]]\nname='data'\nbacking='/dev/nvme1n1'");
        let place = Place { path: "/var/undo".into(), limit: 3 << 20 };
        assert_eq!(read(&kept).expect("good").volumes.expect("one").undo, Some(place));
        assert_eq!(volumes.volumes[0].socket.as_deref(), Some(Path::new("/run/leasehold/data.sock")));
        assert_eq!(volumes.volumes[0].device, None);
        let volumes = read(&format!("{least}[[volume]]\nname='data'\nbacking='/dev/nvme1n1'\ndevice='db'"))
            .expect("good")
            .volumes
            .expect("one");
        assert_eq!(volumes.volumes[0].socket, None, "who asks for a device has it alone");
        assert_eq!(volumes.volumes[0].device.as_ref().map(ToString::to_string), Some("db".into()));
        assert_eq!(volumes.volumes[0].driver, device::Driver::Nbd);
        let wrong = "[volumes]\nlisten='7401'\nverify_mib_s=0\nundo_mib=0\nfollow='later'\n[[volume]]\nname='a b'\nbacking='here'\n[[volume]]\nname='x'\nbacking='/x'\ndevice='/dev/x'\n[[volume]]\nname='x'\nbacking='/y'\ndevice='d'\n[[volume]]\nname='z'\nbacking='/z'\ndevice='d'\ndevice_driver='aoe'\n[[volume]]\nname='v'\nbacking='/v'\ndevice_driver='nbd'";
        let told = read(&format!("{least}{wrong}")).expect_err("many mistakes").to_string();
        for part in [
            "volumes.listen",
            "volumes.verify_mib_s = 0: MiB a second, from 1",
            "volumes.undo_mib = 0: MiB that the undo log may take",
            "volumes.follow = \"later\": \"sync\"",
            "volume[0].name",
            "volume[0].backing",
            "volume[1].device",
            "volume[3].device_driver = \"aoe\": use \"nbd\"",
            "volume[4].device_driver",
            "each volume needs its own name",
            "each device needs its own name",
        ] {
            assert!(told.contains(part), "{part} in:\n{told}");
        }
        let told = read(&format!("{least}[volumes]\n")).expect_err("none").to_string();
        assert!(told.contains("there is no [[volume]]"), "{told}");
    }

    #[test]
    fn two_resources_of_one_name_are_refused() {
        let one = "[[resource]]\nname='x'\nkind='script'\nstart=['/bin/x']\n";
        let told =
            read(&format!("cluster='web'\nnode='a'\ntable='t'\nbus='b'\n{one}{one}")).expect_err("the same twice");
        assert!(told.to_string().contains("its own name"), "{told}");
    }

    #[test]
    fn the_file_is_named_in_every_line() {
        let error = NodeConfig::load(Path::new("/nonexistent/node.toml")).expect_err("no file");
        assert!(error.to_string().contains("/nonexistent/node.toml: cannot be read"), "{error}");
    }
}
