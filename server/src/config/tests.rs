#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Precedence, unknown names, and the sample file.

use std::path::Path;

use super::*;

/// A folder with this `lovage.toml`.
fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), text).unwrap();
    folder
}

fn flags(values: &[(&str, &str)]) -> Flags {
    Flags { file: None, values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect() }
}

fn environment(values: &[(&str, &str)]) -> Vec<(String, String)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn loaded(file: &str, variables: &[(&str, &str)], given: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    load(Config::default(), &flags(given), environment(variables), folder(file).path())
}

fn refusal(file: &str, variables: &[(&str, &str)], given: &[(&str, &str)]) -> String {
    match loaded(file, variables, given) {
        Ok(_) => panic!("accepted"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn without_anything_the_defaults_hold() {
    let nowhere = tempfile::tempdir().unwrap();
    let loaded = load(Config::default(), &Flags::default(), [], nowhere.path()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.source("listen"), "default");
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "grace = '1s'\npartitions = 3\nmin_free = '1MiB'\n[limits]\ntask_bytes = '2MiB'\nlabels = 5\n[times]\nwait = 7\n";
    let variables = [
        ("LOVAGE_GRACE", "2s"),
        ("LOVAGE_PARTITIONS", "4"),
        ("LOVAGE_LIMITS_TASK_BYTES", "3MiB"),
        ("LOVAGE_ALLOW_NETWORK", "10.0.0.0/8, fd00::/8"),
    ];
    let loaded =
        loaded(file, &variables, &[("grace", "3s"), ("limits.task_bytes", "4MiB"), ("egress.allow_metadata", "true")]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.grace, Dur::from_secs(3));
    assert_eq!(config.partitions, 4);
    assert_eq!(config.min_free, Size(1 << 20));
    assert_eq!(config.limits.task_bytes, Size(4 << 20));
    assert_eq!(config.limits.labels, 5);
    assert_eq!(config.times.wait, Dur::from_secs(7));
    assert_eq!(config.allow_network, ["10.0.0.0/8", "fd00::/8"]);
    assert!(config.egress.allow_metadata);
    assert_eq!(config.limits.streams, Config::default().limits.streams);

    assert_eq!(loaded.source("grace"), "--grace");
    assert_eq!(loaded.source("partitions"), "LOVAGE_PARTITIONS");
    assert!(loaded.source("min_free").ends_with("lovage.toml"));
    assert_eq!(loaded.source("limits.streams"), "default");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let said = refusal("[limits]\ntask_byte = 1\n", &[], &[]);
    assert!(said.contains("lovage.toml: unknown key `limits.task_byte`; did you mean `limits.task_bytes`?"), "{said}");
    let said = refusal("lissten = '127.0.0.1:1'\n", &[], &[]);
    assert!(said.contains("unknown key `lissten`; did you mean `listen`?"), "{said}");
    let said = refusal("", &[("LOVAGE_PARTITION", "1")], &[]);
    assert_eq!(said, "unknown environment variable `LOVAGE_PARTITION`; did you mean `LOVAGE_PARTITIONS`?");
    let said = refusal("", &[], &[("dispatcher.leese", "1s")]);
    assert_eq!(said, "unknown key `dispatcher.leese`; did you mean `dispatcher.lease`?");
    let said = refusal("", &[], &[("nothing.like.it", "1")]);
    assert_eq!(said, "unknown key `nothing.like.it`; `lovage config` shows all keys");
}

#[test]
fn variables_of_clients_and_of_kubernetes_are_no_settings() {
    let variables = [
        ("LOVAGE_URL", "http://x"),
        ("LOVAGE_KEY", "k"),
        ("LOVAGE_PORT", "tcp://10.0.0.1:8275"),
        ("LOVAGE_SERVICE_HOST", "10.0.0.1"),
        ("LOVAGE_PORT_8275_TCP_PROTO", "tcp"),
        ("HOME", "/"),
    ];
    assert_eq!(loaded("", &variables, &[]).unwrap().config, Config::default());
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for (file, variables, given, wanted) in [
        ("grace = 'soon'", &[][..], &[][..], "lovage.toml: `grace`: "),
        ("", &[("LOVAGE_PARTITIONS", "many")][..], &[][..], "LOVAGE_PARTITIONS: `many` is not a whole number"),
        ("", &[("LOVAGE_PARTITIONS", "70000")][..], &[][..], "LOVAGE_PARTITIONS: "),
        ("", &[][..], &[("durability", "lax")][..], "--durability: "),
        ("", &[][..], &[("durability", "lax")][..], "--durability: `lax` is none of `strict`, `relaxed`"),
        ("", &[][..], &[("log", "loud=very")][..], "log (from --log): `loud=very` is not a level or filter"),
        ("", &[][..], &[("allow_network", "10.0.0.1/8")][..], "allow_network"),
        ("", &[][..], &[("dispatcher.close_after", "20s")][..], "renew_every"),
        ("", &[][..], &[("dispatcher.limits", "10")][..], "dispatcher.limits (from --dispatcher.limits): at least 11 is needed"),
        ("", &[][..], &[("runtime.gateway_threads", "0")][..], "--runtime.gateway-threads"),
        ("public_url = 'lovage'", &[][..], &[][..], "public_url: `lovage` is not a URL"),
        ("[redis]\ncert_file = 'c.pem'", &[][..], &[][..], "cert_file and key_file belong together"),
        ("listen = ", &[][..], &[][..], "is not a configuration file"),
        ("data_dir = 'd'", &[("LOVAGE_REDIS_URL", "redis://h")][..], &[][..], "redis_url (from LOVAGE_REDIS_URL)"),
    ] {
        let said = refusal(file, variables, given);
        assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
    }
}

#[test]
fn a_named_file_must_exist_and_is_read_instead() {
    let folder = folder("partitions = 2\n");
    let named = Flags { file: Some("other.toml".into()), values: Vec::new() };
    let missing = load(Config::default(), &named, [], folder.path());
    assert!(missing.is_err_and(|error| error.to_string().contains("other.toml")));
    std::fs::write(folder.path().join("other.toml"), "partitions = 9\n").unwrap();
    assert_eq!(load(Config::default(), &named, [], folder.path()).unwrap().config.partitions, 9);
    let variables = environment(&[("LOVAGE_CONFIG", "other.toml")]);
    assert_eq!(load(Config::default(), &Flags::default(), variables, folder.path()).unwrap().config.partitions, 9);
}

#[test]
fn what_is_shown_can_be_read_again_and_hides_the_password() {
    let given = [("redis_url", "redis://user:secret@host/1"), ("limits.labels", "7"), ("allow_network", "10.0.0.0/8")];
    let shown = loaded("grace = '9s'", &[], &given).unwrap().to_toml().unwrap();
    assert!(shown.contains("redis://user:***@host/1") && !shown.contains("secret"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("grace = \"9s\"") && line.ends_with("lovage.toml")), "{shown}");
    let list = [("redis_url", "redis+cluster://user:secret@h1:1,h2:2")];
    let lists = loaded("", &[], &list).unwrap().to_toml().unwrap();
    assert!(lists.contains("redis+cluster://user:***@h1:1,h2:2") && !lists.contains("secret"), "{lists}");
    let again = loaded(&shown, &[], &[]).unwrap().config;
    assert_eq!((again.limits.labels, again.grace, again.partitions), (7, Dur::from_secs(9), 16));
}

/// The sample names every key, and the value it shows is the default.
#[test]
fn the_sample_file_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lovage.toml");
    let sample = std::fs::read_to_string(&path).unwrap();
    let none: Vec<&str> = vec![
        "public_url",
        "data_dir",
        "redis_url",
        "node_name",
        "admin_key_file",
        "egress.extra_ca_file",
        "redis.ca_file",
        "redis.cert_file",
        "redis.key_file",
    ];
    let mut named = Vec::new();
    let mut set = String::new();
    let mut table = String::new();
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
            set.push_str(line);
        } else if let Some((key, _)) =
            line.strip_prefix('#').filter(|line| !line.starts_with(' ')).and_then(|line| line.split_once(" = "))
        {
            let path = format!("{table}{key}");
            if !none.contains(&path.as_str()) {
                set.push_str(&line[1..]);
            }
            named.push(path);
        }
        set.push('\n');
    }
    let from_sample = loaded(&set, &[], &[]).unwrap();
    assert_eq!(from_sample.config, Config::default());
    let known: Vec<&str> = from_sample.keys.iter().map(|key| key.path.as_str()).collect();
    for key in &known {
        assert!(named.iter().any(|name| name == key), "docs/lovage.toml says nothing about {key}");
    }
    assert_eq!(named.len(), known.len(), "docs/lovage.toml names a key twice");
    for line in from_sample.to_toml().unwrap().lines().filter(|line| line.contains(" = ")) {
        assert!(!line.ends_with("default"), "docs/lovage.toml has no value for {line}");
    }
}

#[test]
fn values_beyond_reason_are_refused_by_name() {
    let long = "x".repeat(65);
    for (key, value) in [
        ("node_name", ""),
        ("node_name", "a\nb"),
        ("node_name", &long),
        ("redis_prefix", ""),
        ("redis_prefix", "a{b}"),
        ("partitions", "0"),
        ("partitions", "4097"),
        ("runtime.gateway_threads", "0"),
        ("runtime.dispatcher_threads", "100000"),
        ("redis.timeout", "0s"),
        ("redis.wait_timeout", "0s"),
    ] {
        let said = refusal("", &[], &[(key, value)]);
        assert!(said.starts_with(key), "{key}={value:?}: {said}");
    }
}
