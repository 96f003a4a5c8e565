//! `ping`: is a member there, on which path, and how far away?
//!
//! Asking also makes the node look for a direct path, so that the path of the replies is the best one in the end, or is
//! known to be.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use hyper::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use crate::admin::client::{Client, Refused};
use crate::home::Home;
use crate::json::PingJson;
use crate::{stdout, text};

/// From one question to the next. Often enough to watch a path change, and nothing to any network.
const EVERY: Duration = Duration::from_secs(1);

/// The same where a direct path is waited for: scripts do.
const EVERY_UNTIL_DIRECT: Duration = Duration::from_millis(500);

/// Ask a member for an answer, show the path and the time it took, and look for a direct path meanwhile
#[derive(Debug, Args)]
pub(super) struct Ping {
    /// A member's name, or the start of its id
    #[arg(value_parser = text::parse_peer)]
    peer: String,
    /// How many times to ask
    #[arg(short = 'c', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Ask until the path is direct; fail with the reason where it cannot become so, or has not in time
    #[arg(long, conflicts_with = "count")]
    until_direct: bool,
    /// How long to wait for a direct path
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "until_direct",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Reply<'a> {
    seq: u64,
    #[serde(flatten)]
    pong: &'a PingJson,
}

#[derive(Serialize)]
struct NoReply<'a> {
    seq: u64,
    error: &'a str,
}

/// What came of the questions so far.
#[derive(Default)]
struct Tally {
    sent: u64,
    times: Vec<f64>,
}

impl Ping {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        super::block_on(async {
            let (client, mut tally) = (Client::new(home), Tally::default());
            let outcome = tokio::select! {
                result = self.ask(&client, &mut tally) => result?,
                _ = tokio::signal::ctrl_c() => None,
            };
            if !self.json {
                stdout::line(&tally.summary())?;
            }
            if let Some(problem) = outcome {
                return Err(problem);
            }
            if tally.times.is_empty() {
                return Err(anyhow!(
                    "no answer from {}: `net-mesh peers` shows whether there is a path to it",
                    self.peer
                ));
            }
            Ok(())
        })
    }

    /// What kept the path from becoming direct, where that was wanted.
    async fn ask(&self, client: &Client<'_>, tally: &mut Tally) -> anyhow::Result<Option<anyhow::Error>> {
        if !self.until_direct {
            let mut ticks = ticks(EVERY);
            for _ in 1..=self.count {
                ticks.tick().await;
                self.once(client, tally).await?;
            }
            return Ok(None);
        }
        let limit = Duration::from_secs(self.timeout);
        match tokio::time::timeout_at(Instant::now() + limit, self.until_direct(client, tally)).await {
            Ok(result) => result,
            Err(_) => {
                let why = client.why_here(&self.peer).await?;
                if why.path.kind == "direct" {
                    // The path is, or was: its peer does not answer.
                    return Ok(Some(anyhow!("no answer on the direct path within {} s", self.timeout)));
                }
                Ok(Some(anyhow!("no direct path within {} s: {}", self.timeout, why.reason)))
            }
        }
    }

    async fn until_direct(
        &self,
        client: &Client<'_>,
        tally: &mut Tally,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        let mut ticks = ticks(EVERY_UNTIL_DIRECT);
        loop {
            ticks.tick().await;
            match self.once(client, tally).await? {
                Some(pong) if pong.path.kind == "direct" => return Ok(None),
                Some(_) => {
                    let why = client.why_here(&self.peer).await?;
                    if why.hopeless {
                        return Ok(Some(anyhow!("no direct path: {}", why.reason)));
                    }
                }
                None => {}
            }
        }
    }

    /// Asks once, and prints what comes of it.
    async fn once(&self, client: &Client<'_>, tally: &mut Tally) -> anyhow::Result<Option<PingJson>> {
        let asked = client.ping(&self.peer).await;
        // A question that was cut off by the end of the time to ask was neither answered nor lost.
        tally.sent += 1;
        match asked {
            Ok(pong) => {
                tally.times.push(pong.rtt_ms);
                stdout::line(&self.reply(tally.sent, &pong)?)?;
                Ok(Some(pong))
            }
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refused) if refused.status == StatusCode::GATEWAY_TIMEOUT => {
                    stdout::line(&self.no_reply(tally.sent, &refused.error)?)?;
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    fn reply(&self, seq: u64, pong: &PingJson) -> anyhow::Result<String> {
        if self.json {
            return Ok(serde_json::to_string(&Reply { seq, pong })?);
        }
        Ok(format!(
            "from {} ({}): {} in {}",
            text::printable(&pong.name),
            text::short_id(&pong.node_id),
            text::path(&pong.path).trim_start_matches("relayed "),
            text::ms(pong.rtt_ms)
        ))
    }

    fn no_reply(&self, seq: u64, error: &str) -> anyhow::Result<String> {
        if self.json {
            return Ok(serde_json::to_string(&NoReply { seq, error })?);
        }
        Ok(format!("no answer: seq={seq} {}", text::one_line(error)))
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

impl Tally {
    fn summary(&self) -> String {
        let received = self.times.len() as u64;
        let lost = ((self.sent - received) * 100).checked_div(self.sent).unwrap_or(0);
        let mut text = format!("{} asked, {received} answered, {lost}% lost", self.sent);
        let min = self.times.iter().copied().min_by(f64::total_cmp);
        let max = self.times.iter().copied().max_by(f64::total_cmp);
        if let (Some(min), Some(max)) = (min, max) {
            // Counts of pings are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let mean = self.times.iter().sum::<f64>() / received as f64;
            text = format!(
                "{text}; fastest {}, mean {}, slowest {}",
                text::ms(min),
                text::ms(mean),
                text::ms(max)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::PathJson;

    fn ping(json: bool) -> Ping {
        Ping { peer: "x".into(), count: 1, until_direct: false, timeout: 30, json }
    }

    fn pong() -> PingJson {
        let addr = Some(([203, 0, 113, 7], 4433).into());
        let path = PathJson { kind: "direct".into(), addr, via: vec![], via_ids: vec![] };
        PingJson { node_id: "abcdefghijklmnop".into(), name: "home".into(), path, rtt_ms: 31.234 }
    }

    #[test]
    fn a_reply_is_one_line_with_path_and_time() {
        assert_eq!(
            ping(false).reply(2, &pong()).unwrap(),
            "from home (abcdefghij): direct 203.0.113.7:4433 in 31.2 ms"
        );
        let path =
            PathJson { kind: "relayed".into(), addr: None, via: vec!["fra-1".into()], via_ids: vec![] };
        let relayed = PingJson { path, rtt_ms: 182.0, ..pong() };
        assert_eq!(ping(false).reply(1, &relayed).unwrap(), "from home (abcdefghij): via fra-1 in 182 ms");
        assert_eq!(
            ping(true).reply(2, &pong()).unwrap(),
            r#"{"seq":2,"node_id":"abcdefghijklmnop","name":"home","path":{"kind":"direct","addr":"203.0.113.7:4433","via":[],"via_ids":[]},"rtt_ms":31.234}"#
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_cut_off_is_not_a_lost_one() {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(tmp.path()), None).unwrap();
        std::fs::write(tmp.path().join("node.key"), "").unwrap();
        let _silent = tokio::net::UnixListener::bind(tmp.path().join(crate::home::SOCKET)).unwrap();
        let (client, mut tally) = (Client::new(&home), Tally::default());
        let ping = ping(false);
        let asked = tokio::time::timeout(Duration::from_secs(1), ping.once(&client, &mut tally)).await;
        assert!(asked.is_err(), "nobody answers");
        assert_eq!(tally.summary(), "0 asked, 0 answered, 0% lost");
    }

    #[test]
    fn the_summary_counts_what_got_lost() {
        let tally = Tally { sent: 3, times: vec![1.0, 4.0] };
        assert_eq!(
            tally.summary(),
            "3 asked, 2 answered, 33% lost; fastest 1.0 ms, mean 2.5 ms, slowest 4.0 ms"
        );
        assert_eq!(Tally::default().summary(), "0 asked, 0 answered, 0% lost");
    }
}
