//! What is deployed beside the binary, held against it: every variable, port, path and address of docker-compose.yml,
//! every metric that a panel or an alert asks for, every query's grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use order_service::settings::{Outside, SETTINGS, Settings, commands};
use serde_json::{Map, Value};

use crate::http::{envelope, wb_posted};
use crate::server::Server;
use crate::servers;

/// Metrics that are asked for before anybody exports them. Empty it when the pool has its gauge.
const METRICS_TO_COME: &[&str] = &[];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no mapping"))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|value| value.as_str().unwrap()).collect()
}

/// A value of docker-compose.yml as it is where no one sets a variable: `${NAME:-default}` is its default.
fn by_default(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, variable)) = rest.split_once("${") {
        let (variable, after) = variable.split_once('}').unwrap();
        let (_, default) = variable.split_once(":-").unwrap_or_else(|| panic!("{variable} has no default"));
        plain.push_str(before);
        plain.push_str(default);
        rest = after;
    }
    plain + rest
}

/// A service's environment, as far as it does not come from outside alone.
fn environment(service: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| by_default(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
    let all = service["environment"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    all.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Ports as `(of this machine, of the container)`.
fn ports(service: &Value) -> Vec<(u16, u16)> {
    let port = |text: &str| text.parse().unwrap();
    let pair = |text: &str| {
        let text = text.strip_prefix("127.0.0.1:").unwrap_or_else(|| panic!("{text}: not on the loopback only"));
        let (outer, inner) = text.split_once(':').unwrap();
        (port(outer), port(inner))
    };
    strings(&service["ports"]).into_iter().map(pair).collect()
}

/// The settings of the service's container: the image's variables and those of docker-compose.yml.
fn container() -> BTreeMap<String, String> {
    let dockerfile = read("deploy/Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ENV ")).unwrap();
    let own = line.split(' ').map(|pair| pair.split_once('=').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mut all: BTreeMap<_, _> = own.collect();
    all.extend(environment(&yaml("docker-compose.yml")["services"]["order-service"]));
    all
}

#[test]
fn the_container_is_set_up_with_settings_that_there_are() {
    let container = container();
    for name in container.keys() {
        let is_of = |known: &&str, is_secret: bool| name == known || (is_secret && *name == format!("{known}_FILE"));
        let is_known = SETTINGS.iter().any(|setting| setting.env.iter().any(|known| is_of(known, setting.is_secret)));
        assert!(is_known, "{name} is no setting");
    }
    let matches = commands::command().get_matches_from(["order-service"]);
    let settings = Settings::load(&matches, &Outside { environment: container, ..Outside::default() }).unwrap();
    let listen = settings.config.http.listen[0].address().unwrap();
    assert!(listen.ip().is_unspecified(), "{listen} is not to be reached from outside the container");
    let compose = yaml("docker-compose.yml");
    let service = &compose["services"]["order-service"];
    assert_eq!(ports(service), [(8080, listen.port())]);
    assert!(read("deploy/Dockerfile").contains(&format!("\nEXPOSE {}\n", listen.port())));
    let grace: u64 = service["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!(grace > settings.config.grace.as_secs(), "the container is killed before it has drained");
    let admin = settings.config.admin.unwrap().address().unwrap();
    let scraped = &yaml("deploy/prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(strings(scraped), ["order-service", "worker"].map(|host| format!("{host}:{}", admin.port())));
    let worker = &compose["services"]["worker"];
    assert_eq!(environment(worker), environment(service), "a worker shares the service's settings");
    assert_eq!(worker["image"], service["image"]);
}

/// The ports on which a service takes connections from other containers.
fn inner_ports(name: &str, service: &Value) -> Vec<u16> {
    let mut inner: Vec<u16> = ports(service).into_iter().map(|(_, inner)| inner).collect();
    for listener in environment(service).get("KAFKA_LISTENERS").into_iter().flat_map(|text| text.split(',')) {
        inner.push(listener.rsplit_once(':').unwrap().1.parse().unwrap());
    }
    assert!(!inner.is_empty(), "{name} takes no connections");
    inner
}

#[test]
fn every_address_between_containers_leads_somewhere() {
    let compose = yaml("docker-compose.yml");
    let services = object(&compose["services"]);
    let leads = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap_or_else(|| panic!("{address} has no port"));
        let service = services.get(host).unwrap_or_else(|| panic!("{host} of {address} is no service"));
        assert!(inner_ports(host, service).contains(&port.parse().unwrap()), "{host} does not listen on {port}");
    };
    let container = container();
    let (user, rest) = container["POSTGRES_DSN"].strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    leads(address);
    let postgres = environment(&services["postgres"]);
    assert_eq!(user, format!("{}:{}", postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"]));
    assert_eq!(database, postgres["POSTGRES_DB"]);
    leads(&container["KAFKA_BROKERS"]);
    leads(&environment(&services["kafka-ui"])["KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS"]);
    leads(&environment(&services["kafka-topics"])["BROKERS"]);
    for variable in
        ["KAFKA_TOPIC", "KAFKA_DLQ_TOPIC", "ORDERS_EVENTS_TOPIC", "ORDERS_ACK_TOPIC", "ORDERS_SNAPSHOTS_TOPIC"]
    {
        let setting = SETTINGS.iter().find(|setting| setting.env.contains(&variable)).unwrap();
        let command = strings(&services["kafka-topics"]["command"])[0];
        assert!(command.contains(&format!("create {} ", setting.default)), "no one makes the topic of {variable}");
    }
    let source = &yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    leads(source["url"].as_str().unwrap().strip_prefix("http://").unwrap());

    let text = read("docker-compose.yml");
    let redis = text.lines().find_map(|line| line.strip_prefix("#   REDIS_ADDR=")).unwrap();
    leads(redis.split(' ').next().unwrap());

    // The line that the head of the file gives for the cluster, and what its brokers say of themselves.
    let cluster = text.lines().find_map(|line| line.strip_prefix("#   KAFKA_BROKERS=")).unwrap();
    let brokers: Vec<&str> = cluster.split(' ').next().unwrap().split(',').collect();
    assert_eq!(brokers.len(), 3);
    for broker in brokers.into_iter().chain(["kafka:19092"]) {
        leads(broker);
        let (name, _) = broker.split_once(':').unwrap();
        let settings = environment(&services[name]);
        let host = ports(&services[name])[0].0;
        assert_eq!(settings["KAFKA_ADVERTISED_LISTENERS"], format!("INSIDE://{broker},HOST://localhost:{host}"));
        let own = format!("{}@{name}:9093", settings["KAFKA_NODE_ID"]);
        assert!(settings["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(',').any(|voter| voter == own), "{own} has no vote");
    }
}

#[test]
fn containers_are_pinned_watched_and_not_root_and_what_they_mount_is_there() {
    let compose = yaml("docker-compose.yml");
    let mut outer_ports = BTreeSet::new();
    for (name, service) in object(&compose["services"]) {
        // Those of the profile `legacy` run in place of others.
        let is_legacy = is_legacy(service);
        for (outer, _) in ports(service) {
            assert!(outer_ports.insert((is_legacy, outer)), "two containers want port {outer}");
        }
        for mount in strings(&service["volumes"]) {
            let (what, _) = mount.split_once(':').unwrap();
            let is_there = match what.strip_prefix("./") {
                Some(path) => root().join(path).exists() && mount.ends_with(":ro"),
                None => object(&compose["volumes"]).contains_key(what),
            };
            assert!(is_there, "{name}: {mount}");
        }
        for dependency in service["depends_on"].as_object().into_iter().flat_map(Map::keys) {
            assert!(object(&compose["services"]).contains_key(dependency), "{name} waits for {dependency}");
        }
        if name == "order-service" {
            let dockerfile = read(service["build"]["dockerfile"].as_str().unwrap());
            assert!(dockerfile.contains(":nonroot\n") && dockerfile.contains("\nHEALTHCHECK "));
            continue;
        }
        if service["build"].is_object() {
            assert_eq!(service["build"], compose["services"]["order-service"]["build"]);
        }
        let (image, tag) = service["image"].as_str().unwrap().rsplit_once(':').unwrap();
        assert!(tag != "latest" && !tag.is_empty(), "{name}: {image} is not pinned");
        // Kafka UI's own image has a user that is not root.
        assert!(image.ends_with("/kafka-ui") || service["user"].is_string(), "{name} may be root");
        assert!(name == "kafka-topics" || service["healthcheck"]["test"].is_array(), "{name} is not watched");
    }
    let dashboards =
        &yaml("deploy/grafana/provisioning/dashboards/order-service.yml")["providers"][0]["options"]["path"];
    let mounts = strings(&compose["services"]["grafana"]["volumes"]).join("\n");
    assert!(mounts.contains(&format!("./deploy/grafana/dashboards:{}:ro", dashboards.as_str().unwrap())));
}

fn is_legacy(service: &Value) -> bool {
    strings(&service["profiles"]) == ["legacy"]
}

/// The ports and names that scripts of the older services have in them.
#[test]
fn the_legacy_profile_has_the_ports_and_names_of_the_older_services() {
    let compose = yaml("docker-compose.yml");
    let services = object(&compose["services"]);
    for (name, container, outer) in
        [("order_app", "order_app", 8081), ("order_db", "order_db", 5433), ("legacy_kafka_ui", "kafka-ui", 8080)]
    {
        let service = &services[name];
        assert!(is_legacy(service), "{name} would start with the others");
        assert_eq!(service["container_name"], container);
        assert_eq!(ports(service).into_iter().map(|(outer, _)| outer).collect::<Vec<_>>(), [outer], "{name}");
    }
    let of_legacy = services.values().filter(|service| is_legacy(service)).count();
    // Started by their names, with what they need, and nothing that has their ports.
    let by_name = "docker compose --profile legacy up --build";
    assert!(read("Makefile").contains(&format!("{by_name} --detach order_app order_db legacy_kafka_ui")));
    assert_eq!(of_legacy, 3);
    let app = environment(&services["order_app"]);
    let (user, rest) = app["DB_CONN_STR"].strip_prefix("postgres://").unwrap().split_once('@').unwrap();
    let database = environment(&services["order_db"]);
    assert_eq!(user, format!("{}:{}", database["POSTGRES_USER"], database["POSTGRES_PASSWORD"]));
    assert_eq!(rest, format!("order_db:5432/{}", database["POSTGRES_DB"]));
    let matches = commands::command().get_matches_from(["order-service"]);
    let settings = Settings::load(&matches, &Outside { environment: app, ..Outside::default() }).unwrap();
    assert_eq!(settings.config.http.listen[0].address().unwrap().port(), 8081);
    assert!(settings.unused.is_empty(), "{:?}", settings.unused);
}

/// The containers that the service runs in.
const OURS: [&str; 3] = ["order-service", "worker", "order_app"];

#[test]
fn containers_of_the_service_write_to_no_file_of_theirs_and_may_ask_the_kernel_for_little() {
    let compose = yaml("docker-compose.yml");
    for name in OURS {
        let service = &compose["services"][name];
        assert_eq!((&service["read_only"], strings(&service["cap_drop"])), (&true.into(), vec!["ALL"]), "{name}");
        let options = strings(&service["security_opt"]);
        assert!(options.contains(&"no-new-privileges:true"), "{name}: {options:?}");
        let profile = options.iter().find_map(|option| option.strip_prefix("seccomp:./")).unwrap();
        assert!(root().join(profile).is_file(), "{name}: {profile}");
    }
    let images = object(&compose["services"]).iter().filter(|(_, service)| service["image"] == "order-service:local");
    assert_eq!(images.map(|(name, _)| name.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(OURS));
}

/// The calls that the profile allows, whatever their arguments.
fn allowed_calls() -> BTreeSet<String> {
    let profile: Value = serde_json::from_str(&read("deploy/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(strings(&profile["architectures"]), ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]);
    let rules = profile["syscalls"].as_array().unwrap();
    let allowed = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    allowed.flat_map(|rule| strings(&rule["names"])).map(str::to_owned).collect()
}

#[test]
fn the_profile_of_system_calls_has_all_that_the_service_needs_and_nothing_that_leads_out() {
    let allowed = allowed_calls();
    for call in [
        "bpf",
        "ptrace",
        "process_vm_readv",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "setns",
        "unshare",
        "keyctl",
        "add_key",
        "request_key",
        "init_module",
        "finit_module",
        "kexec_load",
        "perf_event_open",
        "userfaultfd",
        "reboot",
        "open_by_handle_at",
        "swapon",
        "personality",
        "io_uring_setup",
        "clone3",
        "mknod",
        "mknodat",
        "acct",
        "syslog",
    ] {
        assert!(!allowed.contains(call), "{call}");
    }
    if Command::new("strace").arg("--version").output().is_err() {
        return servers::skip_anywhere("strace is not installed");
    }
    // From its start to its end, with reads, writes, events, gRPC and a source that finds no server.
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    let socket = home.path().join("orders.sock");
    let program = crate::server::binary(home.path()).get_program().to_owned();
    let mut service = Command::new("strace")
        .args(["-f", "-qq", "-o", trace.to_str().unwrap()])
        .arg(program)
        .args(["serve", "--listen", &format!("unix:{}", socket.display()), "--grpc", "127.0.0.1:0", "--sample", "10"])
        .args(["--kafka", "127.0.0.1:1", "--data", home.path().join("data").to_str().unwrap()])
        .current_dir(&home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut connection = crate::server::until("it listens", crate::server::SIGNAL_TIME * 4, || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    let requests = [
        crate::server::request("POST", "/orders", &[("Content-Type", "application/json")], wb_posted("x").as_bytes()),
        crate::server::request("GET", "/order/x", &[("Connection", "close")], b""),
    ];
    std::io::Write::write_all(&mut connection, &requests.concat()).unwrap();
    let answers = std::io::read_to_string(&mut connection).unwrap();
    assert!(answers.contains("201 Created") && answers.contains("200 OK"), "{answers}");
    // The service is told, not strace, which need not hand it on.
    let strace = service.id();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the service is its child");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let _ = service.wait().unwrap();
    let trace = fs::read_to_string(trace).unwrap();
    let used: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(').map(|(name, _)| name))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        .collect();
    assert!(used.contains("epoll_wait") || used.contains("epoll_pwait"), "{used:?}");
    // What is refused as if the kernel did not have it is done in another way.
    let refused = |call: &&&str| !allowed.contains(**call) && !["clone3", "io_uring_setup"].contains(*call);
    assert_eq!(used.iter().filter(refused).collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// The settings of a section of a unit of systemd; of those that are there twice all.
fn unit() -> BTreeMap<String, Vec<String>> {
    let mut settings = BTreeMap::<String, Vec<String>>::new();
    for line in read("deploy/order-service.service").lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=') {
            settings.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    settings
}

#[test]
fn the_unit_of_systemd_starts_a_command_that_there_is_and_lets_it_do_little() {
    let unit = unit();
    let command = unit["ExecStart"][0].split_whitespace().skip(1);
    let words = std::iter::once("order-service").chain(command);
    let matches = commands::command().try_get_matches_from(words).unwrap();
    let pairs = unit["Environment"][0].split(' ').map(|pair| pair.split_once('=').unwrap());
    let environment: BTreeMap<String, String> = pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let settings = Settings::load(&matches, &Outside { environment, ..Outside::default() }).unwrap();
    assert!(settings.unused.is_empty(), "{:?}", settings.unused);
    let stop: u64 = unit["TimeoutStopSec"][0].parse().unwrap();
    assert!(stop > settings.config.grace.as_secs(), "it is killed before it has drained");
    for (name, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
        ("DynamicUser", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallFilter", "@system-service"),
        ("RestartPreventExitStatus", "78"),
    ] {
        assert_eq!(unit[name][0], value, "{name}");
    }
    let Ok(said) = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager", "deploy/order-service.service"])
        .current_dir(root())
        .output()
    else {
        return servers::skip_anywhere("systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let Some((_, level)) = said.split_once("exposure level for order-service.service: ") else {
        return servers::skip_anywhere("systemd-analyze looks at no file");
    };
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 1.5, "{said}");
}

/// Names of files in the steps of a release.
#[test]
fn a_release_names_files_that_there_are_and_actions_by_their_commits() {
    let text = read(".github/workflows/release.yml");
    let workflow = yaml(".github/workflows/release.yml");
    assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}), "more is each job's own");
    let mut files = BTreeSet::new();
    for (name, job) in object(&workflow["jobs"]) {
        for needed in job["needs"].as_str().into_iter().chain(strings_of(&job["needs"])) {
            assert!(object(&workflow["jobs"]).contains_key(needed), "{name} waits for {needed}");
        }
        for step in job["steps"].as_array().unwrap() {
            if let Some(action) = step["uses"].as_str() {
                let (_, commit) = action.split_once('@').unwrap();
                assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}");
            }
            files.extend(step["with"]["file"].as_str().map(str::to_owned));
            let words = step["run"].as_str().unwrap_or_default().split_whitespace();
            let is_file =
                |word: &&str| ["deploy/", "README", "LICENSE", "deny.toml"].iter().any(|begin| word.starts_with(begin));
            files.extend(words.filter(is_file).map(str::to_owned));
        }
    }
    assert!(files.contains("deploy/Dockerfile") && files.contains("deploy/seccomp.json"), "{files:?}");
    for file in files {
        assert!(root().join(&file).is_file(), "{file}");
    }
    for word in ["attest-build-provenance", "attest-sbom", "cyclonedx", "x86_64", "aarch64", "--features kafka-tls"] {
        assert!(text.contains(word), "{word}");
    }
    let toolchain = workflow["env"]["TOOLCHAIN"].as_str().unwrap();
    assert!(read("Cargo.toml").contains(&format!("rust-version = \"{toolchain}\"")));
    assert!(read("deploy/Dockerfile").contains(&format!("rust:{toolchain}-")));
}

fn strings_of(value: &Value) -> Vec<&str> {
    if value.is_array() { strings(value) } else { Vec::new() }
}

/// What cargo says of the dependencies. `None` where those of other platforms, which no build here has needed, cannot be
/// fetched.
fn cargo(arguments: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let is_unreachable =
        ["failed to download", "failed to get", "unable to update"].iter().any(|why| said.contains(why));
    if !output.status.success() && is_unreachable {
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

const UNFETCHED: &str = "crates of other platforms cannot be fetched";

/// Whether a licence is allowed: one of those joined by OR, all of those joined by AND.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let licence = licence.replace('/', " OR ");
    if let Some((first, rest)) = licence.strip_prefix('(').and_then(|rest| rest.split_once(") AND ")) {
        return is_allowed(first, allowed) && is_allowed(rest, allowed);
    }
    let is_one = |name: &str| allowed.contains(&name.trim());
    licence.split(" OR ").any(|choice| choice.split(" AND ").all(|name| is_one(name.trim_matches(['(', ')']))))
}

#[test]
fn dependencies_are_those_that_deny_toml_allows() {
    let rules: toml::Table = read("deny.toml").parse().unwrap();
    let list = |value: &toml::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let allowed = list(&rules["licenses"]["allow"]);
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    let registries = list(&rules["sources"]["allow-registry"]);
    let Some(metadata) = cargo(&["metadata", "--format-version", "1", "--locked"]) else {
        return servers::skip_anywhere(UNFETCHED);
    };
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let denied: Vec<String> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap().to_owned())
        .collect();
    for package in metadata["packages"].as_array().unwrap() {
        let (name, licence) = (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or_default());
        assert!(is_allowed(licence, &allowed), "{name}: {licence}");
        assert!(!denied.iter().any(|denied| denied == name), "{name}");
        let source = package["source"].as_str();
        let is_known = |source: &str| registries.iter().any(|known| source == format!("registry+{known}"));
        assert!(source.is_none_or(is_known), "{name}: {source:?}");
    }
    // Two versions of one crate, but for the newest, are named with a reason.
    let skips = rules["bans"]["skip"].as_array().unwrap();
    let mut skipped = BTreeSet::new();
    let mut doubles = BTreeSet::new();
    for target in list(&rules["graph"]["targets"]) {
        let arguments = ["tree", "--duplicates", "--target", &target, "--all-features", "--depth", "0", "--locked"];
        let Some(tree) = cargo(&arguments) else { return servers::skip_anywhere(UNFETCHED) };
        let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
        for (name, version) in tree.lines().filter_map(|line| line.split_once(" v")) {
            versions.entry(name).or_default().insert(version.split([' ', '+']).next().unwrap());
        }
        for (name, versions) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
            let of = |version: &str| {
                skips.iter().filter_map(|skip| skip["crate"].as_str()).find(|skip| {
                    skip.split_once('@')
                        .is_some_and(|(of, begin)| of == name && version.starts_with(&format!("{begin}.")))
                })
            };
            let named: Vec<&str> = versions.iter().filter_map(|version| of(version)).collect();
            if named.len() + 1 < versions.len() {
                doubles.insert(format!("{name} {versions:?}"));
            }
            skipped.extend(named);
        }
    }
    assert_eq!(doubles, BTreeSet::new());
    let named: BTreeSet<&str> = skips.iter().map(|skip| skip["crate"].as_str().unwrap()).collect();
    assert_eq!(named, skipped, "what is named and not there any more");
    assert!(skips.iter().all(|skip| !skip["reason"].as_str().unwrap().is_empty()));
}

/// What a target of the Makefile would run.
fn made(target: &str, variables: &[&str]) -> String {
    let output = Command::new("make").args(["--dry-run", target]).args(variables).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{target}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn targets_of_the_older_documents_do_what_their_names_say() {
    for (target, variables, runs) in [
        ("go-build", &[][..], "cargo build --release"),
        ("go-test", &[], "tests/run.sh"),
        ("go-lint", &[], "cargo clippy --all-targets -- -D warnings"),
        ("go-run", &[], "serve --sample 10000"),
        ("run-api", &[], "target/release/order-service serve"),
        ("run-worker", &[], "target/release/order-service worker"),
        ("run-publisher", &[], "order-service publish --http http://127.0.0.1:8080 --count 10000"),
        ("migrate-up", &[], "order-service migrate up"),
        ("migrate-down", &[], "order-service migrate down"),
        ("migrate-down", &["YES=1"], "order-service migrate down --yes"),
        ("migrate-status", &[], "order-service migrate status"),
        ("legacy-up", &[], "--profile legacy up"),
    ] {
        let lines = made(target, variables);
        assert!(lines.contains(runs), "{target}: {lines}");
        // What is run is a command line that there is.
        for line in lines.lines().filter_map(|line| line.trim().strip_prefix("target/release/order-service ")) {
            let words = std::iter::once("order-service").chain(line.split_whitespace());
            assert!(commands::command().try_get_matches_from(words).is_ok(), "{target}: {line}");
        }
    }
}

#[test]
fn a_migration_is_created_under_the_next_number() {
    let home = tempfile::tempdir().unwrap();
    let migrations = home.path().join("migrations/postgres");
    fs::create_dir_all(&migrations).unwrap();
    for file in fs::read_dir(root().join("migrations/postgres")).unwrap().map(Result::unwrap) {
        fs::write(migrations.join(file.file_name()), "").unwrap();
    }
    let make = |more: &[&str]| {
        let makefile = root().join("Makefile");
        Command::new("make")
            .arg("-f")
            .arg(makefile)
            .arg("migrate-create")
            .args(more)
            .current_dir(&home)
            .output()
            .unwrap()
    };
    assert!(!make(&[]).status.success(), "it has no name");
    let before = fs::read_dir(&migrations).unwrap().count();
    let output = make(&["NAME=add_something"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = said.lines().filter(|line| line.ends_with("_add_something.up.sql")).collect();
    let [file] = files[..] else { panic!("{said}") };
    assert!(home.path().join(file).exists() && home.path().join(file.replace(".up.", ".down.")).exists());
    assert_eq!(fs::read_dir(&migrations).unwrap().count(), before + 2);
    let number = |name: &str| name.get(..4).and_then(|number| number.parse::<u32>().ok()).unwrap();
    let required = fs::read_dir(root().join("migrations/postgres")).unwrap().map(Result::unwrap);
    let newest = required.map(|file| number(file.file_name().to_str().unwrap())).filter(|number| *number < 1000).max();
    assert_eq!(Some(number(file.rsplit('/').next().unwrap())), newest.map(|newest| newest + 1));
}

/// What `make stress-*` asks for, against a service with samples and one without.
#[test]
fn stress_asks_for_ids_that_exist_and_fails_where_answers_are_not_200() {
    let lines = made("stress-quick", &[]);
    let line = lines.lines().find(|line| line.contains(" load ")).unwrap().replace('\\', " ");
    let ids: Vec<&str> = lines.split_whitespace().filter(|word| word.starts_with("b563feb7b2b84b6test")).collect();
    assert_eq!(ids.len(), 6, "{line}");
    for (samples, is_good) in [("10", true), ("3", false)] {
        let server = Server::start(&["--sample", samples]);
        server.wait_ready();
        for id in &ids {
            let is_there = server.get(&format!("/order/{id}")).status == 200;
            assert!(is_there || !is_good, "{id} is none of the samples");
        }
        let mut load = crate::server::binary(server.data().as_path());
        load.args(["load", "--strict", "--url", &format!("http://{}", server.address())]);
        load.args(ids.iter().flat_map(|id| ["--id", *id]));
        let ended = load.args(["--rate", "200", "--duration", "1s", "--warm-up", "0s"]).output().unwrap();
        assert_eq!(ended.status.success(), is_good, "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// The metrics that a PromQL expression asks for: every name that is no function, keyword or label.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    const KEYWORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "inf"];
    const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let mut names = BTreeSet::new();
    let mut rest = expression;
    let skip = |rest: &str, until: char| rest.split_once(until).unwrap_or_else(|| panic!("{expression}")).1.len();
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if first == '{' {
            // A brace inside a quoted pattern does not end the matchers.
            let mut is_quoted = false;
            let end = rest.find(|c: char| {
                is_quoted ^= c == '"';
                c == '}' && !is_quoted
            });
            rest = &rest[end.unwrap() + 1..];
        } else if first == '[' {
            rest = &rest[rest.len() - skip(rest, ']')..];
        } else if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after.trim_start();
            let is_function = ["(", "by ", "without "].iter().any(|next| rest.starts_with(next));
            if LISTS.contains(&name) {
                rest = &rest[rest.len() - skip(rest, ')')..];
            } else if !first.is_ascii_digit() && !is_function && !KEYWORDS.contains(&name) {
                names.insert(name.to_owned());
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    names
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = metrics_of(
        r#"sum by (a, le) (rate(x_total{b=~"/o[{]id[}]",c="}"}[5m])) / on (a) y > 0.01 unless z offset 10m"#,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["x_total", "y", "z"]);
}

/// Every expression of the dashboard, with the place it stands in. Variables have a value.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/order-service.json")).unwrap();
    let mut expressions = Vec::new();
    let mut ids = BTreeSet::new();
    let (mut cells, mut rows) = (BTreeSet::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && cells.insert(cell), "{title} lies over another panel or beside the page");
        }
        if panel["type"] == "row" {
            rows.push(title);
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing");
        assert_eq!(panel["datasource"]["uid"], "prometheus");
        for target in panel["targets"].as_array().unwrap() {
            expressions.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(rows, ["Now", "Reads", "Ingest", "Kafka", "Store", "Published", "NATS", "Redis", "Process"]);
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        expressions.push(("annotation".into(), annotation["expr"].as_str().unwrap().to_owned()));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap();
        let (metric, _) = query.strip_prefix("label_values(").unwrap().split_once(',').unwrap();
        expressions.push(("variable".into(), metric.to_owned()));
    }
    for (_, expression) in &mut expressions {
        *expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
        assert!(!expression.contains('$'), "{expression}: an unknown variable");
    }
    expressions
}

/// Every expression of the alerts, each of which must say what is wrong and what to do.
fn alerts() -> Vec<(String, String)> {
    let alerts = yaml("deploy/prometheus/alerts.yml");
    let tests = read("deploy/prometheus/alerts.test.yml");
    let mut expressions = Vec::new();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(!rules.is_empty());
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        for annotation in ["summary", "action"] {
            assert!(
                rule["annotations"][annotation].as_str().is_some_and(|text| text.len() > 10),
                "{name}: {annotation}"
            );
        }
        let fires = format!("alertname: {name}\n        exp_alerts:");
        let is_quiet = format!("alertname: {name} }}");
        assert!(tests.contains(&fires) && tests.contains(&is_quiet), "{name} is not tested both ways");
        expressions.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    }
    expressions
}

/// The metrics of a service that has done a little of everything.
fn exported() -> BTreeSet<String> {
    let server = Server::start(&[]);
    server.post("/orders", wb_posted("deploy-1")).expect(201);
    server.post("/orders", envelope("{}")).expect(201);
    server.post("/orders", "{}").expect(422);
    server.get("/order/deploy-1").expect(200);
    server.get("/order/deploy-2").expect(404);
    server.families()
}

#[test]
fn every_metric_that_is_asked_for_is_exported() {
    let exported = exported();
    let sources = sources();
    for (place, expression) in dashboard().into_iter().chain(alerts()) {
        let names = metrics_of(&expression);
        assert!(!names.is_empty(), "{place}: {expression}");
        for name in names {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let name = family.filter(|family| exported.contains(*family) || is_to_come(family)).unwrap_or(&name);
            // Some have labels that only Kafka or PostgreSQL bring; then at least the source must have their name.
            let is_there = name == "up" || exported.contains(name) || sources.contains(&format!("\"{name}\""));
            assert!(is_there || is_to_come(name), "{place}: no one exports {name}");
        }
    }
}

fn is_to_come(name: &str) -> bool {
    METRICS_TO_COME.contains(&name)
}

/// All of `src` as one text.
pub fn sources() -> String {
    fn collect(directory: &Path, into: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    collect(&root().join("src"), &mut text);
    text
}

#[test]
fn every_query_of_the_dashboard_can_be_parsed() {
    let record = |(index, (_, expr)): (usize, &(String, String))| serde_json::json!({ "record": format!("panel_{index}"), "expr": expr });
    let expressions = dashboard();
    let rules: Vec<Value> = expressions.iter().enumerate().map(record).collect();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("rules.yml");
    fs::write(&path, serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    let promtool = Command::new("promtool").arg("check").arg("rules").arg(&path).stdin(Stdio::null()).output();
    match promtool {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            servers::skip("promtool is missing (run make test)");
        }
        Err(error) => panic!("promtool: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The names of all tests, by the file they are in.
fn tests_of(path: &Path, into: &mut String) {
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            tests_of(&entry.path(), into);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&format!("\n// {}\n", entry.path().strip_prefix(root()).unwrap().display()));
            into.push_str(&fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Each row of docs/moving.md names tests that there are.
#[test]
fn no_row_of_the_way_here_is_without_a_test() {
    let text = read("docs/moving.md");
    let mut sources = String::new();
    for directory in ["tests", "src"] {
        tests_of(&root().join(directory), &mut sources);
    }
    let (mut rows, mut in_table) = (0, false);
    for line in text.lines() {
        let is_row = line.starts_with('|');
        if !is_row || line.starts_with("| ---") {
            in_table = is_row;
            continue;
        }
        if !in_table {
            assert!(line.trim_end_matches(" |").ends_with("| Test"), "{line}: a table without tests");
            continue;
        }
        rows += 1;
        let cell = line.trim_end_matches(" |").rsplit_once("| ").unwrap().1;
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {line}");
        for name in names {
            let (path, test) = name.rsplit_once("::").unwrap();
            let module = path.rsplit("::").next().unwrap();
            if test == "*" {
                let is_there =
                    sources.contains(&format!("mod {module};")) || sources.contains(&format!("mod {module} {{"));
                let is_broker = path.starts_with("broker::") || is_there;
                assert!(is_broker, "{name}: no such module");
            } else {
                assert!(
                    sources.contains(&format!("fn {test}(")) || sources.contains(&format!("fn {test}<")),
                    "{name}: no such test"
                );
            }
        }
    }
    assert!(rows > 30, "only {rows} rows were found");
}

/// Each command of docs/moving.md is one that there is.
#[test]
fn the_commands_of_the_way_here_are_understood() {
    let text = read("docs/moving.md");
    let lines = text.lines().filter_map(|line| line.strip_prefix("order-service "));
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("order-service "));
    let mut count = 0;
    for line in lines.chain(quoted).filter(|line| !line.starts_with("import --from-postgres")) {
        let words = std::iter::once("order-service").chain(line.split_whitespace());
        let matches = commands::command().try_get_matches_from(words);
        let matches = matches.unwrap_or_else(|usage| panic!("{line}: {usage}"));
        if !line.starts_with("config convert") {
            let settings = Settings::load(&matches, &Outside::default());
            settings.unwrap_or_else(|wrong| panic!("{line}: {wrong}"));
        }
        count += 1;
    }
    assert!(count >= 5, "only {count} commands were found");
}
