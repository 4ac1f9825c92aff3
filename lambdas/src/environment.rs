//! The functions' environment variables: the only file that reads them, all mistakes at once.

use lease::ids::ClusterId;
use std::fmt;

/// What the deployment tells a function, and what Lambda does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `LEASEHOLD_TABLE`
    pub table: String,
    /// `LEASEHOLD_BUS`
    pub bus: String,
    /// `LEASEHOLD_CLUSTERS`, separated by commas: whom `watch` visits, and where an instance is looked for.
    pub clusters: Vec<ClusterId>,
    /// `AWS_REGION`
    pub region: String,
    /// `AWS_ENDPOINT_URL`, where AWS is not at its usual place.
    pub endpoint: Option<String>,
}

/// All mistakes of an environment, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEnvironment(pub Vec<String>);

impl fmt::Display for BadEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the function's environment is incomplete; deploy the stack again:\n{}", self.0.join("\n"))
    }
}

impl std::error::Error for BadEnvironment {}

impl Environment {
    /// Of this process.
    ///
    /// # Errors
    /// [`BadEnvironment`]: every mistake.
    pub fn of_process() -> Result<Self, BadEnvironment> {
        #[expect(clippy::disallowed_methods, reason = "a function is configured by its environment, and only here")]
        Self::parse(|name| std::env::var(name).ok())
    }

    /// # Errors
    /// [`BadEnvironment`]: every mistake.
    pub fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        let mut bad = Vec::new();
        let mut required = |name: &str, what: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            if value.is_none() {
                bad.push(format!("{name} is missing: {what}"));
            }
            value.unwrap_or_default()
        };
        let table = required("LEASEHOLD_TABLE", "the DynamoDB table of the deployment");
        let bus = required("LEASEHOLD_BUS", "the EventBridge bus of the deployment");
        let region = required("AWS_REGION", "the Region, e.g. ap-northeast-1");
        let listed = variable("LEASEHOLD_CLUSTERS").unwrap_or_default();
        let mut clusters = Vec::new();
        for name in listed.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.parse() {
                Ok(cluster) => clusters.push(cluster),
                Err(error) => bad.push(format!("LEASEHOLD_CLUSTERS: {error}")),
            }
        }
        let endpoint = variable("AWS_ENDPOINT_URL").filter(|value| !value.is_empty());
        if let Some(url) = endpoint.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            bad.push(format!("AWS_ENDPOINT_URL = {url:?}: expected http://... or https://..."));
        }
        if bad.is_empty() { Ok(Self { table, bus, clusters, region, endpoint }) } else { Err(BadEnvironment(bad)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_environment() {
        let found = Environment::parse(|name| match name {
            "LEASEHOLD_TABLE" | "LEASEHOLD_BUS" => Some("demo".into()),
            "LEASEHOLD_CLUSTERS" => Some("web, db".into()),
            "AWS_REGION" => Some("ap-northeast-1".into()),
            _ => None,
        })
        .expect("a whole environment");
        assert_eq!(found.clusters.iter().map(ToString::to_string).collect::<Vec<_>>(), ["web", "db"]);
        assert_eq!(found.endpoint, None);
    }

    #[test]
    fn every_mistake_at_once() {
        let told = Environment::parse(|name| match name {
            "LEASEHOLD_CLUSTERS" => Some("web,D B".into()),
            "AWS_ENDPOINT_URL" => Some("ftp://x".into()),
            _ => None,
        })
        .expect_err("a bad environment")
        .to_string();
        for part in ["LEASEHOLD_TABLE", "LEASEHOLD_BUS", "AWS_REGION", "\"D B\"", "ftp://x"] {
            assert!(told.contains(part), "{part} in:\n{told}");
        }
    }
}
