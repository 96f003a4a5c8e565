//! `why`: the decision record of one peer, in sentences, and what happened as both sides saw it.

use clap::Args;

use crate::admin::client::Client;
use crate::home::Home;
use crate::json::{MomentJson, OtherSideJson, WhyJson};
use crate::table::{Column, Table};
use crate::{stdout, text};

/// Say why a member is reached the way it is
#[derive(Debug, Args)]
pub(super) struct WhyCommand {
    /// A member's name, or the start of its id
    #[arg(value_parser = text::parse_peer)]
    peer: String,
    /// Show what this node knows, without asking the member for its half
    #[arg(long)]
    own: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl WhyCommand {
    pub(super) fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = Client::new(home);
        let why = super::block_on(async {
            if self.own { client.why_here(&self.peer).await } else { client.why(&self.peer).await }
        })?;
        if self.json {
            return stdout::line(&serde_json::to_string_pretty(&why)?);
        }
        stdout::write(human(&why).as_bytes())
    }
}

fn human(why: &WhyJson) -> String {
    let name = text::printable(&why.name);
    let path = format!("{}{}", text::path(&why.path), since(why.since_ms));
    let how = match why.silent_ms {
        Some(ms) => format!("no answer for {}; the last path was {path}", text::age(ms)),
        None => path,
    };
    let mut lines = vec![format!("{name} ({}): {how}", text::short_id(&why.peer))];
    lines.push(text::printable(&why.reason));
    lines.push(String::new());
    lines.extend(other_side(&name, &why.other_side));
    if !why.timeline.is_empty() {
        lines.push(String::new());
        lines.push(
            "what happened, oldest first (attempts by their ids, with the time since each began there):"
                .into(),
        );
        lines.extend(timeline(&name, &why.timeline));
    }
    if let Some(next) = why.next_attempt_ms {
        lines.push(String::new());
        lines.push(format!("the next attempt is due in {}", text::age(next)));
    }
    lines.push(String::new());
    lines.push(format!("offered to it:   {}", addrs(&why.candidates.own)));
    lines.push(format!("offered by it:   {}", addrs(&why.candidates.theirs)));
    lines.join("\n") + "\n"
}

fn since(ms: Option<u64>) -> String {
    ms.map_or_else(String::new, |ms| format!(", for {}", text::age(ms)))
}

fn other_side(name: &str, other: &OtherSideJson) -> Vec<String> {
    let (Some(path), Some(reason)) = (&other.path, &other.reason) else {
        let problem = other.problem.as_deref().unwrap_or("it was not asked");
        return vec![format!("what {name} knows is missing below: {}", text::printable(problem))];
    };
    vec![
        format!("{name} itself says: {}{}", text::path(path), since(other.since_ms)),
        text::printable(reason),
    ]
}

/// One line for each moment: when, who says so, in which attempt, what.
fn timeline(name: &str, moments: &[MomentJson]) -> Vec<String> {
    let side = |moment: &MomentJson| if moment.side == "this" { "this node" } else { name }.to_owned();
    let into = |moment: &MomentJson| moment.into_ms.map_or_else(String::new, |ms| format!("+{ms} ms"));
    let id = |moment: &MomentJson| text::short_id(moment.attempt.as_deref().unwrap_or_default()).to_owned();
    let mut table = Table::new(&[
        ("", Column::Right),
        ("", Column::Left),
        ("", Column::Left),
        ("", Column::Right),
        ("", Column::Left),
    ]);
    for moment in moments {
        let ago = format!("{} ago", text::age(moment.at_ms_ago));
        table.row([ago, side(moment), id(moment), into(moment), moment.text.clone()]);
    }
    table.render(None).lines().skip(1).map(|line| format!("  {line}")).collect()
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
    use crate::json::PathJson;
    use crate::json::why::CandidatesJson;

    fn why(other_side: OtherSideJson) -> WhyJson {
        let moment = |at_ms_ago, side: &str, attempt: Option<&str>, into_ms, text: &str| MomentJson {
            at_ms_ago,
            side: side.into(),
            attempt: attempt.map(|id| id.repeat(4)),
            into_ms,
            text: text.into(),
        };
        WhyJson {
            peer: "abcdefghijklmnop".into(),
            name: "attic".into(),
            path: relayed(),
            since_ms: Some(180_000),
            silent_ms: None,
            hopeless: false,
            reason: "relayed via fra-1 because the last attempt found no way".into(),
            plan: Some("fire together".into()),
            mediator: Some("fra-1".into()),
            candidates: CandidatesJson { own: vec![([203, 0, 113, 7], 4433).into()], theirs: vec![] },
            attempts: vec![],
            next_attempt_ms: Some(5_000),
            other_side,
            timeline: vec![
                moment(61_000, "this", Some("0123abcd"), Some(0), "asks fra-1 for an introduction"),
                moment(61_000, "peer", Some("0123abcd"), Some(0), "is introduced by fra-1"),
                moment(57_900, "peer", Some("0123abcd"), Some(3_100), "timed out\x1b[2J"),
                moment(9_000, "this", None, None, "sends via fra-1"),
            ],
        }
    }

    fn relayed() -> PathJson {
        PathJson {
            kind: "relayed".into(),
            addr: None,
            via: vec!["fra-1".into()],
            via_ids: vec!["a".repeat(52)],
        }
    }

    #[test]
    fn a_relayed_peer_is_explained_in_sentences_and_by_both_sides() {
        let other = OtherSideJson {
            state: "told".into(),
            path: Some(relayed()),
            since_ms: Some(181_000),
            reason: Some("relayed via fra-1; it is left to the peer".into()),
            ..OtherSideJson::default()
        };
        let want = "\
attic (abcdefghij): relayed via fra-1, for 3 min
relayed via fra-1 because the last attempt found no way

attic itself says: relayed via fra-1, for 3 min
relayed via fra-1; it is left to the peer

what happened, oldest first (attempts by their ids, with the time since each began there):
  61 s ago  this node  0123abcd01     +0 ms  asks fra-1 for an introduction
  61 s ago  attic      0123abcd01     +0 ms  is introduced by fra-1
  57 s ago  attic      0123abcd01  +3100 ms  timed out\u{fffd}[2J
   9 s ago  this node                        sends via fra-1

the next attempt is due in 5 s

offered to it:   203.0.113.7:4433
offered by it:   nothing
";
        assert_eq!(human(&why(other)), want);
    }

    #[test]
    fn a_half_that_is_missing_is_said_to_be() {
        let problem = Some("no answer within 2 s".into());
        let text =
            human(&why(OtherSideJson { state: "unknown".into(), problem, ..OtherSideJson::default() }));
        assert!(text.contains("what attic knows is missing below: no answer within 2 s\n"), "{text}");
    }
}
