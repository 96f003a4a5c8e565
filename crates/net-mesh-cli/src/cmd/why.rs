//! `why`: the decision record of one peer, in sentences.

use clap::Args;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{AttemptJson, WhyJson};
use crate::{stdout, text};

/// Say why a member is reached the way it is
#[derive(Debug, Args)]
pub(super) struct WhyCommand {
    /// A member's name, or the start of its id
    peer: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl WhyCommand {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        let why = super::block_on(Client::new(home).why(&self.peer))?;
        if self.json {
            return stdout::line(&serde_json::to_string_pretty(&why)?);
        }
        stdout::write(human(&why).as_bytes())
    }
}

fn human(why: &WhyJson) -> String {
    let mut lines = vec![format!(
        "{} ({}): {}",
        text::printable(&why.name),
        text::short_id(&why.peer),
        text::path(&why.path)
    )];
    lines.push(text::printable(&why.reason));
    if !why.attempts.is_empty() {
        lines.push(String::new());
        lines.push("attempts at a direct way, oldest first:".into());
        lines.extend(why.attempts.iter().map(attempt));
    }
    if let Some(next) = why.next_attempt_ms {
        lines.push(format!("  the next one is due in {}", text::age(next)));
    }
    lines.push(String::new());
    lines.push(format!("offered to it:   {}", addrs(&why.candidates.own)));
    lines.push(format!("offered by it:   {}", addrs(&why.candidates.theirs)));
    lines.join("\n") + "\n"
}

fn attempt(attempt: &AttemptJson) -> String {
    let mediator = attempt.mediator.as_deref().map_or_else(
        || "over the session itself".into(),
        |mediator| format!("introduced by {}", text::printable(mediator)),
    );
    let took = attempt.took_ms.map_or_else(String::new, |ms| format!(" after {ms} ms"));
    format!(
        "  {} ago, {}, {mediator}, as {}: {}{took}, {} check packets. {} [{}]",
        text::age(attempt.at_ms_ago),
        attempt.plan,
        attempt.role,
        attempt.outcome,
        attempt.packets,
        text::printable(&attempt.reason),
        text::short_id(&attempt.id)
    )
}

fn addrs(addrs: &[std::net::SocketAddr]) -> String {
    if addrs.is_empty() {
        return "nothing".into();
    }
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{CandidatesJson, PathJson};

    #[test]
    fn a_relayed_peer_is_explained_in_sentences() {
        let why = WhyJson {
            peer: "abcdefghijklmnop".into(),
            name: "attic".into(),
            path: PathJson {
                kind: "relayed".into(),
                addr: None,
                via: vec!["fra-1".into()],
                via_ids: vec!["a".repeat(52)],
            },
            reason: "relayed via fra-1 because the last attempt found no way".into(),
            plan: Some("fire together".into()),
            mediator: Some("fra-1".into()),
            candidates: CandidatesJson { own: vec![([203, 0, 113, 7], 4433).into()], theirs: vec![] },
            attempts: vec![AttemptJson {
                id: "0123456789abcdef".into(),
                at_ms_ago: 61_000,
                took_ms: Some(3_000),
                plan: "fire together".into(),
                mediator: Some("fra-1".into()),
                role: "seeker".into(),
                outcome: "timed out".into(),
                packets: 10,
                reason: "no check was answered".into(),
            }],
            next_attempt_ms: Some(5_000),
        };
        let want = "\
attic (abcdefghij): relayed via fra-1
relayed via fra-1 because the last attempt found no way

attempts at a direct way, oldest first:
  61 s ago, fire together, introduced by fra-1, as seeker: timed out after 3000 ms, 10 check packets. no check was answered [0123456789]
  the next one is due in 5 s

offered to it:   203.0.113.7:4433
offered by it:   nothing
";
        assert_eq!(human(&why), want);
    }
}
