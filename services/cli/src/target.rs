//! Whom a command talks to: `--cluster FILE --region NAME`, or `--endpoint URL`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use meridian_sdk::{Client, ClientOptions};
use meridian_types::{NodeId, TenantName};

use crate::cluster_file::ClusterFile;
use crate::exit::Failure;

/// Where the nodes are.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// The cluster.json that `meridian dev` wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    cluster: Option<PathBuf>,
    /// The region of the cluster to talk to.
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    region: Option<String>,
    /// A node to talk to, http://HOST:PORT; several of the same region with commas between, or again. The region's other
    /// nodes are found by themselves.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// Whose streams are meant.
    #[arg(long, value_name = "NAME", default_value = "default")]
    tenant: TenantName,
}

/// Where the nodes are, for what any of them can do.
#[derive(Clone, Debug, clap::Args)]
pub struct Anywhere {
    /// The cluster.json that `meridian dev` wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    cluster: Option<PathBuf>,
    /// A node to talk to, http://HOST:PORT; several with commas between, or again.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoint: Vec<String>,
}

impl Anywhere {
    /// A client of the nodes that were named; where none were, of those behind these endpoints.
    pub fn client(&self, or: Vec<String>, retry_for: Duration) -> Result<Client, Failure> {
        let named = self.cluster.is_some() || !self.endpoint.is_empty();
        let endpoint = if named { self.endpoint.clone() } else { or };
        let target =
            Target { cluster: self.cluster.clone(), region: None, endpoint, tenant: TenantName::default() };
        target.any(retry_for)
    }
}

/// A region to talk to.
pub struct Region {
    /// Its name.
    pub name: String,
    /// A client of its nodes.
    pub client: Client,
}

impl Target {
    /// Without either there is nobody to talk to.
    fn check(&self) -> Result<(), Failure> {
        if self.cluster.is_none() && self.endpoint.is_empty() {
            return Err(Failure::input(
                "whom to talk to? add --cluster DIR/cluster.json (and --region NAME), or --endpoint http://HOST:PORT",
            ));
        }
        Ok(())
    }

    fn client(&self, endpoints: Vec<String>, retry_for: Duration) -> Result<Client, Failure> {
        let options = ClientOptions { tenant: self.tenant.clone(), retry_for, ..ClientOptions::default() };
        Ok(Client::connect(endpoints, options)?)
    }

    /// The one region that events go to or come from.
    pub fn region(&self, retry_for: Duration) -> Result<Client, Failure> {
        self.check()?;
        let Some(path) = &self.cluster else { return self.client(self.endpoint.clone(), retry_for) };
        let file = ClusterFile::read(path)?;
        let endpoints = match &self.region {
            Some(name) => named(&file, name)?,
            None => match &file.regions[..] {
                [only] => only.endpoints(),
                _ => {
                    let names = file.names();
                    return Err(Failure::input(format!("which region? add --region, one of: {names}")));
                }
            },
        };
        self.client(endpoints, retry_for)
    }

    /// Any region, for what is the same in all: the one that was named, or all nodes of all.
    pub fn any(&self, retry_for: Duration) -> Result<Client, Failure> {
        match (&self.cluster, &self.region) {
            (Some(path), None) => {
                let file = ClusterFile::read(path)?;
                let all = file.regions.iter().flat_map(|region| region.endpoints()).collect();
                self.client(all, retry_for)
            }
            _ => self.region(retry_for),
        }
    }

    /// The region that was named, or the endpoint's; every region of the file if none was.
    pub async fn named_or_all(&self, retry_for: Duration) -> Result<Vec<Region>, Failure> {
        match (&self.cluster, &self.region) {
            (Some(_), None) => self.all(retry_for).await,
            _ => {
                let client = self.region(retry_for)?;
                let name = client.admin().topology().await?.region;
                Ok(vec![Region { name, client }])
            }
        }
    }

    /// The region that a node is in, wherever the question is asked; for a node that nobody knows the region that was
    /// named, which says what it thinks of that.
    pub async fn region_of(&self, node: NodeId, retry_for: Duration) -> Result<Region, Failure> {
        let topology = self.any(retry_for)?.admin().topology().await?;
        if let Some(row) = topology.nodes.iter().find(|row| row.id == node.0) {
            let regions = self.all(retry_for).await?;
            if let Some(region) = regions.into_iter().find(|region| region.name == row.region) {
                return Ok(region);
            }
        }
        if self.cluster.is_some() && self.region.is_none() {
            let ids: Vec<String> = topology.nodes.iter().map(|row| row.id.to_string()).collect();
            let ids = ids.join(", ");
            return Err(Failure::input(format!(
                "there is no node {node} in this cluster; there are: {ids} (of one that is gone, name the --region)"
            )));
        }
        let client = self.region(retry_for)?;
        let name = client.admin().topology().await?.region;
        Ok(Region { name, client })
    }

    /// Every region: of the file, or as the node behind the endpoint knows them.
    pub async fn all(&self, retry_for: Duration) -> Result<Vec<Region>, Failure> {
        let regions = self.endpoints(retry_for).await?;
        let region = |(name, endpoints)| Ok(Region { name, client: self.client(endpoints, retry_for)? });
        regions.into_iter().map(region).collect()
    }

    /// Every region, with a client of each of its nodes alone.
    pub async fn nodes(&self, retry_for: Duration) -> Result<Vec<(String, Vec<Client>)>, Failure> {
        let regions = self.endpoints(retry_for).await?;
        let alone = |endpoint| {
            let tenant = self.tenant.clone();
            let options = ClientOptions { tenant, retry_for, discover: false, ..ClientOptions::default() };
            Ok(Client::connect(vec![endpoint], options)?)
        };
        let region = |(name, endpoints): (String, Vec<String>)| {
            Ok((name, endpoints.into_iter().map(alone).collect::<Result<_, Failure>>()?))
        };
        regions.into_iter().map(region).collect()
    }

    async fn endpoints(&self, retry_for: Duration) -> Result<Vec<(String, Vec<String>)>, Failure> {
        self.check()?;
        let regions: Vec<(String, Vec<String>)> = match &self.cluster {
            Some(path) => {
                let file = ClusterFile::read(path)?;
                if let Some(name) = &self.region {
                    named(&file, name)?;
                }
                file.regions.iter().map(|region| (region.name.clone(), region.endpoints())).collect()
            }
            None => {
                let asked = self.client(self.endpoint.clone(), retry_for)?;
                let topology = asked.admin().topology().await?;
                let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
                for node in &topology.nodes {
                    nodes.entry(&node.region).or_default().push(node.endpoint.clone());
                }
                let order = topology.regions.iter().map(|region| {
                    (region.name.clone(), nodes.get(region.name.as_str()).cloned().unwrap_or_default())
                });
                order.collect()
            }
        };
        if let Some((name, _)) = regions.iter().find(|(_, endpoints)| endpoints.is_empty()) {
            return Err(Failure::input(format!("no node of region {name} is known; use --cluster")));
        }
        Ok(regions)
    }
}

fn named(file: &ClusterFile, name: &str) -> Result<Vec<String>, Failure> {
    let region = file.regions.iter().find(|region| region.name == name);
    region.map(|region| region.endpoints()).ok_or_else(|| {
        Failure::input(format!("there is no region {name:?} in this cluster; there are: {}", file.names()))
    })
}
