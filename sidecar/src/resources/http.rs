//! The `http` check: one request on a connection of its own, as a client would make it.

use lease::time::Millis;
use std::error::Error as _;

/// Asks resources whether they are well.
#[derive(Clone, Debug)]
pub struct Prober {
    client: reqwest::Client,
}

impl Prober {
    /// # Errors
    /// Where no TLS client can be made.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            // The resource itself is asked: neither another place that it points to, nor a proxy's opinion.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // A kept connection would not notice that no new ones are taken.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client })
    }

    /// # Errors
    /// Why the resource is not well: no answer within `limit`, or a status other than 2xx.
    pub async fn ask(&self, url: &str, limit: Millis) -> Result<(), String> {
        match self.client.get(url).timeout(limit.into()).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("{url}: answered {}, not 2xx", answer.status())),
            Err(error) if error.is_timeout() => Err(format!("{url}: no answer within {limit}")),
            Err(error) => {
                let mut cause = error.source();
                let mut why = String::new();
                while let Some(inner) = cause {
                    why = inner.to_string();
                    cause = inner.source();
                }
                Err(format!("{url}: {}", if why.is_empty() { error.to_string() } else { why }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/health", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    tokio::time::sleep(Millis(5_000).into()).await;
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn only_two_hundreds_are_well() {
        crate::tls::install();
        let prober = Prober::new().expect("a client");
        let ok = answering("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(prober.ask(&ok, Millis(1_000)).await, Ok(()));
        for bad in [
            "HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        ] {
            let told = prober.ask(&answering(bad).await, Millis(1_000)).await.expect_err("not well");
            assert!(told.contains("not 2xx"), "{told}");
        }
    }

    #[tokio::test]
    async fn silence_and_refusal_are_told_apart() {
        crate::tls::install();
        let prober = Prober::new().expect("a client");
        let told = prober.ask(&answering("").await, Millis(100)).await.expect_err("silence");
        assert!(told.contains("no answer within 100 ms"), "{told}");
        let told = prober.ask("http://127.0.0.1:1/", Millis(1_000)).await.expect_err("refused");
        assert!(told.contains("refused"), "{told}");
    }
}
