//! The local cloud (`tests/localcloud`) as a child process, ended with the value that stands for it.

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use lease::table::{KEYS, Table};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

pub const REGION: &str = "ap-northeast-1";

/// Keys of whoever calls. The local cloud takes every key that it did not issue for its operator's.
#[derive(Clone, Debug)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl Keys {
    #[must_use]
    pub fn operator() -> Self {
        Self { id: "operator".into(), secret: "operator".into(), token: None }
    }
}

#[derive(Debug)]
pub struct LocalCloud {
    child: Child,
    port: u16,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// # Errors
    /// Where the body is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{} is not JSON", self.body))
    }
}

impl LocalCloud {
    /// Starts one, without packet plane, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not start; says what to do.
    pub fn start() -> Result<Self> {
        let root = crate::repository();
        let python = root.join(".venv/bin/python");
        ensure!(python.exists(), "{} is missing; run: make setup", python.display());
        let mut child = Command::new(python)
            .args(["-m", "localcloud", "--quiet", "--die-with-parent"])
            .current_dir(root.join("tests"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the local cloud")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let ready: Option<Value> = serde_json::from_str(&line).ok();
        let port = ready.as_ref().and_then(|ready| ready["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else {
            child.kill()?;
            bail!(
                "the local cloud did not become ready; it said {line:?}; try: cd tests && ../.venv/bin/python -m localcloud"
            );
        };
        let cloud = Self { child, port };
        // The first request of a service loads it, which takes longer than any time limit under test.
        for (service, target) in [("dynamodb", "DynamoDB_20120810.ListTables"), ("events", "AWSEvents.ListEventBuses")]
        {
            let answer = cloud.call(&Keys::operator(), service, target, &Value::Object(serde_json::Map::new()))?;
            ensure!(answer.status == 200, "{target}: {}", answer.body);
        }
        Ok(cloud)
    }

    /// A DynamoDB client with these keys and its own connections.
    #[must_use]
    pub fn dynamodb(&self, keys: &Keys) -> Client {
        let credentials = Credentials::new(&keys.id, &keys.secret, keys.token.clone(), None, "test");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(format!("http://localhost:{}", self.port))
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        Client::from_conf(config)
    }

    /// Makes a table with the deployment's keys, and stands for it as the operator.
    ///
    /// # Errors
    /// Where the cloud refuses.
    pub async fn table(&self, name: &str) -> Result<Table> {
        let client = self.dynamodb(&Keys::operator());
        let mut request = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
        for (key, kind) in KEYS.into_iter().zip([KeyType::Hash, KeyType::Range]) {
            let attribute = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
            request = request
                .attribute_definitions(attribute.build()?)
                .key_schema(KeySchemaElement::builder().attribute_name(key).key_type(kind).build()?);
        }
        request.send().await?;
        Ok(Table::new(&client, name))
    }

    /// Switches a fault on; the answer's `id` names the rule.
    ///
    /// # Errors
    /// Where the cloud does not know such a fault.
    pub fn fault(&self, rule: &Value) -> Result<String> {
        let answer = self.http("POST", "/_localcloud/faults", &[], &rule.to_string())?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(answer.json()?["id"].as_str().context("a rule has an id")?.to_owned())
    }

    /// Switches all faults off; what they hold goes on.
    ///
    /// # Errors
    /// Where the cloud does not answer.
    pub fn no_faults(&self) -> Result<()> {
        let answer = self.http("DELETE", "/_localcloud/faults", &[], "")?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(())
    }

    /// A call in the JSON protocol, e.g. `("events", "AWSEvents.PutEvents")`. The local cloud reads the key in the
    /// signature's scope and verifies no signature.
    ///
    /// # Errors
    /// Where there is no answer. A refusal is an answer.
    pub fn call(&self, keys: &Keys, service: &str, target: &str, body: &Value) -> Result<Answer> {
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        self.signed(keys, service, &headers, &body.to_string())
    }

    /// A call in the query protocol, e.g. `("ec2", &[("Action", "DescribeRouteTables"), ("Version", "2016-11-15")])`.
    ///
    /// # Errors
    /// Where there is no answer. A refusal is an answer.
    pub fn query(&self, keys: &Keys, service: &str, parameters: &[(&str, &str)]) -> Result<Answer> {
        let form: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        self.signed(keys, service, &[("content-type", "application/x-www-form-urlencoded")], &form.join("&"))
    }

    fn signed(&self, keys: &Keys, service: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let scope = format!("{}/20260101/{REGION}/{service}/aws4_request", keys.id);
        let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
        let mut all = vec![("authorization", signature.as_str()), ("x-amz-date", "20260101T000000Z")];
        if let Some(token) = &keys.token {
            all.push(("x-amz-security-token", token));
        }
        all.extend(headers);
        self.http("POST", "/", &all, body)
    }

    fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer: {answer:?}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok(Answer { status, body: body.to_owned() })
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        // By the id of the very child; it holds nothing but memory when it runs without packet plane.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
