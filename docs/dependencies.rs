//! Nothing that ships depends on benchmarks, tests or documentation, and these are not published.

use std::{path::PathBuf, process::Command};

use serde::Deserialize;

use crate::root;

/// Folders whose packages are tools of this repository. Every other package ships.
const TOOLS: [&str; 4] = ["benches", "docs", "fuzz", "tests"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    /// The registries it may be published to. An empty list forbids publishing.
    publish: Option<Vec<String>>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal dependency, else `build` or `dev`.
    kind: Option<String>,
}

impl Package {
    fn is_tool(&self) -> bool {
        let folder = self.manifest_path.strip_prefix(root().canonicalize().unwrap()).unwrap();
        TOOLS.iter().any(|tool| folder.starts_with(tool))
    }
}

fn packages() -> Vec<Package> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let output = command.arg(root().join("Cargo.toml")).output().unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages
}

#[test]
fn nothing_that_ships_depends_on_benchmarks_tests_or_documentation() {
    let packages = packages();
    let (tools, shipped): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package.is_tool());
    let is_shipped = |name: &str| shipped.iter().any(|package| package.name == name);
    assert!(is_shipped("leveret") && is_shipped("leveret-cli"), "the packages of the workspace were not found");
    assert!(tools.iter().any(|tool| tool.name == "leveret-harness"), "the test harness was not found");
    let mut edges = Vec::new();
    for package in &shipped {
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev")) {
            if tools.iter().any(|tool| tool.name == dependency.name) {
                edges.push(format!("{} depends on {}", package.name, dependency.name));
            }
        }
    }
    assert!(edges.is_empty(), "{}", edges.join("\n"));
}

#[test]
fn benchmarks_tests_and_documentation_are_not_published() {
    for package in packages().iter().filter(|package| package.is_tool()) {
        assert_eq!(package.publish.as_deref(), Some([].as_slice()), "{}: set publish.workspace = true", package.name);
    }
}
