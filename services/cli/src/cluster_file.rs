//! `cluster.json`, as `meridian dev` writes it: which regions there are, and where their nodes listen.

use std::path::Path;

use serde::Deserialize;

use crate::exit::Failure;

/// A cluster, as seen by clients. What a client does not need is not read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClusterFile {
    /// Its regions.
    pub regions: Vec<RegionEntry>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RegionEntry {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: Vec<NodeEntry>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeEntry {
    /// What clients dial.
    pub endpoint: String,
}

impl ClusterFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::input(format!(
                "cannot read {}: {error}; name the cluster.json that `meridian dev` wrote",
                path.display()
            ))
        })?;
        Self::parse(&text)
            .map_err(|error| Failure::input(format!("{} is no cluster.json: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.regions.is_empty() {
            return Err("it names no region".to_owned());
        }
        if let Some(region) = file.regions.iter().find(|region| region.nodes.is_empty()) {
            return Err(format!("region {} has no node", region.name));
        }
        Ok(file)
    }

    /// The names, for messages.
    pub fn names(&self) -> String {
        self.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl RegionEntry {
    /// What clients dial: all of its nodes, as any of them may be down.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_dev_writes() {
        let text = r#"{"regions":[{"name":"us","nodes":[
            {"id":1,"endpoint":"http://127.0.0.1:7401","pid":4711,"dir":"data/us-1"}]}]}"#;
        let file = ClusterFile::parse(text).unwrap();
        assert_eq!(file.names(), "us");
        assert_eq!(file.regions[0].endpoints(), ["http://127.0.0.1:7401"]);

        let text = r#"{"regions":[
            {"name":"us","nodes":[
                {"id":1,"name":"us-1","endpoint":"http://127.0.0.1:7401","pid":4711,"dir":"data/us-1"},
                {"id":2,"name":"us-2","endpoint":"http://127.0.0.1:7402","pid":4712,"dir":"data/us-2"}]},
            {"name":"eu","nodes":[
                {"id":3,"name":"eu-1","endpoint":"http://127.0.0.1:7403","pid":4713,"dir":"data/eu-1"}]}]}"#;
        let file = ClusterFile::parse(text).unwrap();
        assert_eq!(file.names(), "us, eu");
        assert_eq!(file.regions[0].endpoints(), ["http://127.0.0.1:7401", "http://127.0.0.1:7402"]);
        assert_eq!(file.regions[1].endpoints(), ["http://127.0.0.1:7403"]);
    }

    #[test]
    fn refuses_what_names_nobody() {
        assert!(ClusterFile::parse("{}").is_err());
        assert!(ClusterFile::parse(r#"{"regions":[]}"#).is_err());
        assert!(ClusterFile::parse(r#"{"regions":[{"name":"us","nodes":[]}]}"#).is_err());
    }
}
