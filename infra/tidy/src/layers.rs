//! Imports point down only, and some libraries are not for some crates.

use serde::Deserialize;

use crate::Breach;

/// What a crate may not depend on.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Which crate.
    pub name: &'static str,
    /// The crates of this workspace that it may import.
    pub may_import: &'static [&'static str],
    /// Libraries that it may not depend on, other than for its tests.
    pub never: &'static [&'static str],
}

const ASYNC_AND_NET: [&str; 6] = ["tokio", "tokio-stream", "tonic", "hyper-util", "axum", "tower"];

/// DESIGN §9's table.
pub const RULES: &[Rule] = &[
    Rule {
        name: "meridian-types",
        may_import: &[],
        never: &[
            "tokio",
            "tokio-stream",
            "tonic",
            "hyper-util",
            "axum",
            "tower",
            "rocksdb",
            "prost",
            "nix",
            "rand",
        ],
    },
    Rule {
        name: "meridian-batch",
        may_import: &["meridian-types"],
        never: &["tokio", "tokio-stream", "tonic", "hyper-util", "axum", "tower", "rocksdb", "prost", "nix"],
    },
    Rule {
        name: "meridian-wire",
        may_import: &["meridian-types", "meridian-batch"],
        never: &["rocksdb", "openraft", "axum", "nix"],
    },
    Rule {
        name: "meridian-storage",
        may_import: &["meridian-types", "meridian-batch"],
        never: &["tonic", "prost", "openraft", "axum", "hyper-util", "tower"],
    },
    Rule {
        name: "meridian-metadata",
        may_import: &["meridian-types", "meridian-wire"],
        never: &["axum", "meridian-storage", "meridian-batch"],
    },
    Rule {
        name: "meridian-shard",
        may_import: &["meridian-types", "meridian-batch", "meridian-storage"],
        never: &["tonic", "prost", "rocksdb", "openraft", "axum", "hyper-util", "tower"],
    },
    Rule {
        name: "meridian-mirror",
        may_import: &["meridian-types", "meridian-wire", "meridian-storage", "meridian-shard"],
        never: &["rocksdb", "openraft", "axum"],
    },
    Rule {
        name: "meridian-region",
        may_import: &[
            "meridian-types",
            "meridian-batch",
            "meridian-wire",
            "meridian-storage",
            "meridian-metadata",
            "meridian-shard",
            "meridian-mirror",
        ],
        never: &["rocksdb", "openraft", "axum"],
    },
    Rule {
        name: "meridian-gateway",
        may_import: &[
            "meridian-types",
            "meridian-batch",
            "meridian-wire",
            "meridian-storage",
            "meridian-metadata",
            "meridian-shard",
            "meridian-mirror",
            "meridian-region",
        ],
        never: &["rocksdb", "openraft"],
    },
    Rule {
        name: "meridian-node",
        may_import: &[
            "meridian-types",
            "meridian-batch",
            "meridian-wire",
            "meridian-storage",
            "meridian-metadata",
            "meridian-shard",
            "meridian-mirror",
            "meridian-region",
            "meridian-gateway",
        ],
        never: &["rocksdb", "openraft", "prost"],
    },
    Rule {
        name: "meridian-sdk",
        may_import: &["meridian-types", "meridian-batch", "meridian-wire"],
        never: &["rocksdb", "openraft", "axum", "nix"],
    },
    Rule {
        name: "meridian-cli",
        may_import: &["meridian-types", "meridian-batch", "meridian-sdk", "meridian-node", "meridian-wire"],
        never: &["rocksdb", "openraft", "axum"],
    },
    // What tests and measures the others may see them all.
    Rule { name: "meridian-chaos", may_import: ALL, never: &[] },
    Rule { name: "meridian-chaos-live", may_import: ALL, never: &[] },
    Rule { name: "meridian-sim", may_import: ALL, never: &[] },
    // It measures over chaos-live's networks and its WAN.
    Rule {
        name: "meridian-benches",
        may_import: &["meridian-types", "meridian-batch", "meridian-sdk", "meridian-chaos-live"],
        never: &["rocksdb", "openraft"],
    },
    Rule { name: "meridian-tidy", may_import: &[], never: &ASYNC_AND_NET },
    Rule { name: "base2histogram", may_import: &[], never: &ASYNC_AND_NET },
];

const ALL: &[&str] = &[
    "meridian-types",
    "meridian-batch",
    "meridian-wire",
    "meridian-storage",
    "meridian-metadata",
    "meridian-shard",
    "meridian-mirror",
    "meridian-region",
    "meridian-gateway",
    "meridian-node",
    "meridian-sdk",
    "meridian-cli",
];

/// What `cargo metadata --no-deps` says of a workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None`, `dev` or `build`.
    kind: Option<String>,
}

/// Holds each crate of the workspace against its rule. Dependencies of tests alone are free but for one thing: a crate's
/// tests may not see the crates above it.
pub fn check_layers(manifest: &Manifest) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for package in &manifest.packages {
        let mut breach = |what: String| breaches.push(Breach { place: package.name.clone(), what });
        let Some(rule) = RULES.iter().find(|rule| rule.name == package.name) else {
            breach("has no rule: give it one in infra/tidy/src/layers.rs".to_owned());
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let of_tests = dependency.kind.as_deref() == Some("dev");
            if name.starts_with("meridian-") {
                let allowed = rule.may_import.contains(&name)
                    || (of_tests && (name == package.name || !is_above(name, rule)));
                if !allowed {
                    breach(format!("may not import {name}: imports point down only (DESIGN §9)"));
                }
            } else if rule.never.contains(&name) && !of_tests && dependency.kind.is_none() {
                breach(format!("may not depend on {name} (DESIGN §9)"));
            }
        }
    }
    breaches
}

/// Whether `name` may import the crate of `rule`, and so lies above it.
fn is_above(name: &str, rule: &Rule) -> bool {
    RULES.iter().any(|other| other.name == name && other.may_import.contains(&rule.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(package: &str, dependency: &str, kind: Option<&str>) -> Manifest {
        let dependency = Dependency { name: dependency.into(), kind: kind.map(str::to_owned) };
        Manifest { packages: vec![Package { name: package.into(), dependencies: vec![dependency] }] }
    }

    fn breaches(package: &str, dependency: &str, kind: Option<&str>) -> usize {
        check_layers(&manifest(package, dependency, kind)).len()
    }

    #[test]
    fn imports_point_down_only() {
        assert_eq!(breaches("meridian-shard", "meridian-storage", None), 0);
        assert_eq!(breaches("meridian-storage", "meridian-shard", None), 1);
        assert_eq!(breaches("meridian-sdk", "meridian-gateway", None), 1);
        assert_eq!(breaches("meridian-cli", "meridian-shard", None), 1);
        assert_eq!(breaches("meridian-storage", "meridian-shard", Some("dev")), 1, "nor for tests");
        assert_eq!(breaches("meridian-new", "serde", None), 1, "a crate without a rule");
    }

    #[test]
    fn some_libraries_are_not_for_some_crates() {
        assert_eq!(breaches("meridian-types", "tokio", None), 1);
        assert_eq!(breaches("meridian-types", "tokio", Some("dev")), 0);
        assert_eq!(breaches("meridian-gateway", "rocksdb", None), 1);
        assert_eq!(breaches("meridian-storage", "rocksdb", None), 0);
    }

    #[test]
    fn every_rule_points_at_crates_that_point_not_back() {
        for rule in RULES {
            for name in rule.may_import {
                let below = RULES.iter().find(|other| other.name == *name).expect(name);
                assert!(!below.may_import.contains(&rule.name), "{} and {name} import each other", rule.name);
            }
        }
    }
}
