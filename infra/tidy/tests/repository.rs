//! This repository, held against its rules.

use std::path::{Path, PathBuf};
use std::process::Command;

use meridian_tidy::{Breach, Manifest, RULES, check_layers, check_source};

/// Cargo runs tests in their crate's folder. Where they were compiled is another matter: a build folder that checkouts share gives each
/// what another has compiled.
fn root() -> PathBuf {
    Path::new("../..").canonicalize().unwrap()
}

fn none(breaches: &[Breach]) {
    let lines: Vec<_> = breaches.iter().map(Breach::to_string).collect();
    assert!(breaches.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn crates_keep_to_their_layers() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest: Manifest = serde_json::from_slice(&output.stdout).unwrap();
    none(&check_layers(&manifest));
    let text = String::from_utf8_lossy(&output.stdout);
    for rule in RULES {
        assert!(
            text.contains(&format!("\"name\":\"{}\"", rule.name)),
            "the rule of {} is of no crate",
            rule.name
        );
    }
}

#[test]
fn sources_keep_to_their_form() {
    let mut breaches = Vec::new();
    let mut files = 0;
    let mut folders: Vec<PathBuf> =
        ["services", "chaos", "benches", "infra"].iter().map(|f| root().join(f)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                files += 1;
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                breaches.extend(check_source(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files > 20, "found only {files} files: is this the repository?");
    none(&breaches);
}
