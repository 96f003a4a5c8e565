//! How is that said? One fact a line, and the verdict last.

use std::fmt::Display;
use std::net::SocketAddr;

use super::conclude::{Hint, Verdict, clock_is_off};
use crate::json::NatJson;
use crate::json::doctor::{
    AbsentJson, AdviceJson, DoctorJson, FamilyJson, LookupJson, StartJson, SuggestionJson,
};
use crate::text::{age, printable, shell_word, short_id};

/// Addresses in one line, and addresses to start from, that are shown; the JSON has them all.
const SHOWN: usize = 4;

/// The space for the names of facts.
const LABEL: usize = 18;

type Lines = Vec<(&'static str, String)>;

/// The facts, a line each, then what would improve it, then the verdict.
pub(super) fn report(facts: &DoctorJson) -> String {
    let mut lines: Lines = vec![
        ("node", format!("{} ({}), {}", printable(&facts.name), short_id(&facts.node_id), facts.version)),
        ("UDP", udp(&facts.udp).into()),
        ("IPv4", family(&facts.ipv4)),
        ("IPv6", family(&facts.ipv6)),
        ("NAT", nat(&facts.nat)),
        ("  mapping", facts.nat.mapping.clone()),
        ("  filtering", facts.nat.filtering.clone()),
        ("  ports", ports(facts)),
        ("  hairpin", hairpin(facts)),
        ("  double NAT", double_nat(facts)),
        ("  mappings last", lifetime(facts)),
        ("port mapping", port_mapping(facts)),
        ("clock", clock(facts)),
        ("datagrams", datagrams(facts)),
        ("members", members(facts)),
        ("could relay", relays(facts)),
    ];
    lines.extend(starts(&facts.start));
    closed(lines, &facts.improve, &facts.verdict)
}

fn closed(mut lines: Lines, improve: &[String], verdict: &str) -> String {
    let labels = std::iter::once("to improve it").chain(std::iter::repeat(""));
    lines.extend(labels.zip(improve).map(|(label, hint)| (label, hint.clone())));
    lines.push(("verdict", verdict.to_owned()));
    lines.iter().map(|(label, value)| format!("{label:<LABEL$} {}\n", printable(value))).collect()
}

const fn udp(state: &str) -> &str {
    match state.as_bytes() {
        b"blocked" => "blocked: nothing has come back from anyone",
        b"works" => "works",
        _ => "not known: nobody was asked, or answers may still come",
    }
}

/// A number of things.
fn many(count: impl Display, thing: &str) -> String {
    let count = count.to_string();
    if count == "1" { format!("{count} {thing}") } else { format!("{count} {thing}s") }
}

fn list(items: &[impl Display]) -> String {
    let shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = items.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

fn family(family: &FamilyJson) -> String {
    let inside: Vec<_> = family.inside.iter().filter(|ip| !ip.is_loopback()).collect();
    let inside = if inside.is_empty() { "none".into() } else { list(&inside) };
    let outside = if family.outside.is_empty() { "not known".into() } else { list(&family.outside) };
    format!("inside {inside}; outside {outside}")
}

fn nat(nat: &NatJson) -> String {
    let class = nat.class_words();
    let known = match nat.age_ms {
        // There is nothing yet that one could be sure of.
        _ if nat.class == "unknown" => class,
        Some(ms) => format!("{class}, confidence {:.2}, found {} ago", nat.confidence, age(ms)),
        None => class,
    };
    nat.missing.as_ref().map_or_else(|| known.clone(), |missing| format!("{known}; missing: {missing}"))
}

fn ports(facts: &DoctorJson) -> String {
    let rule = match facts.nat.port_rule.as_str() {
        "unknown" => "no rule known",
        rule => rule,
    };
    match facts.ports {
        None => rule.into(),
        Some(ports) if ports.count == 1 => format!("{rule}, seen: {}", ports.lowest),
        Some(ports) => {
            format!("{rule}, seen: {} different ones from {} to {}", ports.count, ports.lowest, ports.highest)
        }
    }
}

fn hairpin(facts: &DoctorJson) -> String {
    match &facts.hairpin.seen_with {
        Some(name) => format!("works: {name} is reached at the NAT's own outside address"),
        None if facts.double_nat.state == "no-nat" => "no NAT over IPv4".into(),
        None if facts.double_nat.state == "no-ipv4" => "no IPv4 beyond this host".into(),
        None => "not known: it is not tried".into(),
    }
}

fn double_nat(facts: &DoctorJson) -> String {
    let why = match facts.double_nat.evidence.as_deref() {
        Some("shared-address") => ": this host has an address of a carrier's shared space (100.64.0.0/10)",
        Some("router-is-inside") => ": the router's external address is a private one",
        Some("router-sees-another") => ": the router's external address is not the one that members see",
        Some("several-outside") => {
            ": members see several IPv4 addresses, as behind a carrier's NAT or with several uplinks"
        }
        Some("router-agrees") => ": members see the router's external address",
        _ => "",
    };
    match facts.double_nat.state.as_str() {
        "no-nat" => "no NAT over IPv4".into(),
        "no-ipv4" => "no IPv4 beyond this host".into(),
        "unknown" => "not known: the router was not asked for its address, or did not say".into(),
        state => format!("{state}{why}"),
    }
}

fn lifetime(facts: &DoctorJson) -> String {
    let known = facts.mapping_lifetime;
    let kept = format!("sessions are kept alive every {}", age(known.keep_alive_ms));
    let expired = known.expired_after_ms.map(|ms| format!("one was gone after {} of silence", age(ms)));
    let replaced = known.replaced_after_ms.map(|ms| format!("they are replaced at the age of {}", age(ms)));
    let learnt: Vec<String> = expired.into_iter().chain(replaced).collect();
    if learnt.is_empty() {
        return format!("long enough so far; {kept}");
    }
    format!("{}; {kept}", learnt.join(", "))
}

fn port_mapping(facts: &DoctorJson) -> String {
    match facts.port_mapping.state.as_str() {
        "off" if facts.port_mapping_built => "off (`up --port-mapping`)".into(),
        "off" => "off (this program is built without it)".into(),
        _ => facts.port_mapping.words(),
    }
}

/// A difference in clocks, with one unit.
fn apart(ahead_ms: i64) -> String {
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    format!("{} {side}", age(ahead_ms.unsigned_abs()))
}

fn clock(facts: &DoctorJson) -> String {
    let Some(clock) = facts.clock else { return "not known: there is nobody to compare it with".into() };
    let whose = match clock.members {
        1 => "the only other member".to_owned(),
        n => format!("most of {n} members"),
    };
    if clock_is_off(facts) {
        return format!("{} {whose}", apart(clock.ahead_ms));
    }
    format!("agrees with {whose}")
}

fn datagrams(facts: &DoctorJson) -> String {
    let Some(size) = facts.datagram else { return "not known: there is no direct session".into() };
    let range = match (size.lowest, size.highest) {
        (low, high) if low == high => format!("{low} bytes"),
        (low, high) => format!("{low} to {high} bytes"),
    };
    let lost = match size.black_holes {
        0 => String::new(),
        1 => "; once larger ones began to be lost".into(),
        n => format!("; {n} times larger ones began to be lost"),
    };
    format!("{range} of payload over {}{lost}", many(size.sessions, "direct session"))
}

fn members(facts: &DoctorJson) -> String {
    let counts = facts.members;
    let named = [
        (counts.direct, "direct"),
        (counts.relayed, "relayed"),
        (counts.failed, "not reached"),
        (counts.idle, "without a session"),
    ];
    let names: Vec<&str> = facts.lost.iter().map(|lost| lost.name.as_str()).collect();
    let word = |word: &str| match word {
        "not reached" if !names.is_empty() => format!("not reached ({})", list(&names)),
        word => word.to_owned(),
    };
    let parts: Vec<String> =
        named.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {}", word(what))).collect();
    if parts.is_empty() { "no other is known".into() } else { parts.join(", ") }
}

fn relays(facts: &DoctorJson) -> String {
    let relays = facts.relays;
    format!("{} reached straight, of {} that relay", many(relays.direct, "member"), relays.members)
}

fn starts(starts: &[StartJson]) -> Lines {
    if starts.is_empty() {
        return vec![("start addresses", "none".into())];
    }
    let labels = std::iter::once("start addresses").chain(std::iter::repeat(""));
    // Those that do not answer are why one looks here.
    let mut sorted: Vec<&StartJson> = starts.iter().collect();
    sorted.sort_by_key(|start| !matches!(start.state.as_str(), "silent" | "refused"));
    let mut lines: Lines =
        labels.zip(sorted.iter().take(SHOWN)).map(|(label, s)| (label, start(s))).collect();
    if let more @ 1.. = starts.len().saturating_sub(SHOWN) {
        lines.push(("", format!("and {more} more")));
    }
    lines
}

fn start(start: &StartJson) -> String {
    let state = match start.state.as_str() {
        "silent" => format!("no answer in {}", many(start.attempts, "attempt")),
        "refused" => "answers, and is no member of this mesh, or does not take this node for one".into(),
        "trying" => "no answer yet".into(),
        "not-tried" => "not tried: not needed".into(),
        "itself" => "this node itself".into(),
        "unusable" => "unusable: this node does not listen on such an address".into(),
        state => state.to_owned(),
    };
    let whose = start.name.as_ref().filter(|_| start.state != "itself");
    whose.map_or_else(|| format!("{} {state}", start.addr), |name| format!("{} {state} ({name})", start.addr))
}

/// The verdict, in a sentence.
pub(super) fn verdict(facts: &DoctorJson, verdict: Verdict) -> String {
    let counts = facts.members;
    match verdict {
        Verdict::Works if counts.relayed == 0 && counts.failed == 0 => {
            format!("this node works, and reaches {} directly", many(counts.direct, "member"))
        }
        Verdict::Works => format!("this node works, and reaches members: {}", members(facts)),
        Verdict::Alone => "this node is ready, and alone: it knows no other member".into(),
        Verdict::UdpBlocked => {
            "this node cannot work: UDP is blocked here, or nobody runs at the addresses to start from".into()
        }
        Verdict::NoUsableStart => {
            "this node cannot work: it has no socket for any of the addresses to start from".into()
        }
        Verdict::Stranger => {
            "this node cannot work: who answers at the addresses to start from is no member of its mesh, or does not take it for one"
                .into()
        }
        Verdict::NobodyReached => "this node cannot work: no member can be reached".into(),
        Verdict::NotYet => "this node cannot work yet: no member has answered so far".into(),
    }
}

/// What would improve it, in a sentence.
pub(super) fn hint(facts: &DoctorJson, hint: Hint) -> String {
    let relayed_paths = many(facts.members.relayed, "relayed path");
    match hint {
        Hint::AllowUdp => {
            "let outgoing UDP through, and its answers back in, at the firewall of this host or network"
                .into()
        }
        Hint::CheckStart => format!("see that a node runs at {}", silent(&facts.start)),
        Hint::JoinAgain => {
            "join with a ticket of the mesh that runs there, into another --home; with certificates, see that none has expired and that both ends have one of the same CA"
                .into()
        }
        Hint::SeeLost => {
            let name = facts.lost.first().map_or("PEER", |lost| lost.name.as_str());
            format!("see whether who is not reached still runs: `net-mesh why {name}`")
        }
        Hint::GiveStart => "listen on the family of the addresses to start from, or join by others".into(),
        Hint::Wait => "ask again in a few seconds".into(),
        Hint::Invite => "`net-mesh invite` makes a ticket, with which others join".into(),
        Hint::AskRouter => {
            format!("`up --port-mapping` asks the router for a port, which could make {relayed_paths} direct")
        }
        Hint::BuildPortMapping => format!(
            "build the program with `--features port-mapping`: a port of the router could make {relayed_paths} direct"
        ),
        Hint::SecondNat => {
            "a public IPv4 address or IPv6 from the provider: behind two NATs the router's port is of no use"
                .into()
        }
        Hint::LetUdpIn => format!("let UDP in to {} at the firewall", list(&facts.listen)),
        Hint::SecondHelper => {
            format!("for a verdict on the NAT: {}", facts.nat.missing.as_deref().unwrap_or("more members"))
        }
        Hint::LookAtMesh => "`net-mesh doctor --mesh` says which change helps most".into(),
        Hint::NoRelay => {
            "have a member relay that this node reaches: if a path dies, there is no other".into()
        }
        Hint::SetClock => {
            "set the clock of this host by NTP, or those of the others, whose hosts may also have slept"
                .into()
        }
        Hint::BlackHoles => "look for a link with a small MTU that drops large packets silently".into(),
        Hint::SilentStarts => format!("replace what does not answer: {}", silent(&facts.start)),
    }
}

fn silent(starts: &[StartJson]) -> String {
    let found: Vec<SocketAddr> =
        starts.iter().filter(|s| s.state == "silent" || s.state == "trying").map(|s| s.addr).collect();
    if found.is_empty() { "the addresses to start from".into() } else { list(&found) }
}

/// What follows where no node runs.
pub(super) fn absent_conclusion(facts: &AbsentJson) -> (String, Vec<String>) {
    let mut improve = Vec::new();
    let verdict = match (&facts.error, &facts.name) {
        (Some(error), _) => {
            improve.push(error.clone());
            format!("no node is running in {}, and none can as it is", facts.home)
        }
        (None, _) => {
            let home = shell_word(&facts.home);
            improve.push(format!("`net-mesh --home {home} up` starts it; ask again then"));
            format!("no node is running in {}", facts.home)
        }
    };
    if facts.ipv4.is_none() && facts.ipv6.is_none() {
        improve.push("connect this host to a network: it has a way out in neither family".into());
    }
    for lookup in facts.start.iter().filter(|lookup| lookup.addrs.is_empty()) {
        improve.push(format!("{} cannot be looked up: see to the name, or to the resolver", lookup.host));
    }
    (verdict, improve)
}

pub(super) fn absent_report(facts: &AbsentJson) -> String {
    let name = facts.name.clone().unwrap_or_else(|| "not known".into());
    let from = |ip: Option<std::net::IpAddr>| {
        ip.map_or_else(|| "no way out".to_owned(), |ip| format!("this host would send from {ip}"))
    };
    let mut lines: Lines = vec![
        ("node", format!("{name}, {}, not running", facts.version)),
        ("home", facts.home.clone()),
        ("UDP", "not known: only a running node finds out".into()),
        ("IPv4", from(facts.ipv4)),
        ("IPv6", from(facts.ipv6)),
        ("NAT", "not known: only a running node finds out".into()),
    ];
    let labels = std::iter::once("start addresses").chain(std::iter::repeat(""));
    let lookup = |lookup: &LookupJson| match &lookup.addrs[..] {
        [] => format!("{} cannot be looked up", lookup.host),
        addrs if addrs.iter().any(|addr| addr.to_string() == lookup.host) => lookup.host.clone(),
        addrs => format!("{} is {}", lookup.host, list(addrs)),
    };
    if facts.start.is_empty() {
        lines.push(("start addresses", "none".into()));
    }
    lines.extend(labels.zip(facts.start.iter().map(lookup)));
    let places = many(facts.remembered, "place");
    lines.push(("remembered", format!("{places} where members were in earlier runs")));
    closed(lines, &facts.improve, &facts.verdict)
}

pub(super) fn advice_report(advice: &AdviceJson) -> String {
    let pairs = advice.pairs;
    let mut lines: Lines = vec![
        ("members", format!("{}, of which anyone can reach {}", advice.members, advice.open)),
        ("pairs", (pairs.direct + pairs.undecided + pairs.relayed).to_string()),
        ("  can be direct", pairs.direct.to_string()),
        ("  not known", pairs.undecided.to_string()),
        ("  relayed", pairs.relayed.to_string()),
    ];
    let labels = std::iter::once("would help").chain(std::iter::repeat(""));
    let sentences = advice.suggestions.iter().map(|s| format!("{}: {}", what(s), effect(s)));
    lines.extend(labels.zip(sentences));
    closed(lines, &[], &advice.verdict)
}

pub(super) fn advice_verdict(advice: &AdviceJson) -> String {
    match advice.suggestions.first() {
        Some(best) => format!("what helps most: {}; {}", what(best), effect(best)),
        None if advice.members < 2 => "this node is alone: there are no pairs".into(),
        None if advice.pairs.relayed + advice.pairs.undecided == 0 => "every pair can be direct".into(),
        None => "no single change of one member would make another pair direct".into(),
    }
}

fn what(suggestion: &SuggestionJson) -> String {
    let name = suggestion.name.as_deref().unwrap_or("a member");
    match suggestion.change.as_str() {
        "allow-udp" => format!("allow UDP here, at {name}"),
        "open-router" => format!("switch on port mapping at {name}, or give it a public address"),
        "open-firewall" => format!("let UDP in at the firewall of {name}"),
        "give-ipv4" => format!("give {name} a public IPv4 address"),
        "give-ipv6" => format!("give {name} an IPv6 address"),
        _ => "add another member at a public address, so that NATs can be classified".into(),
    }
}

fn effect(suggestion: &SuggestionJson) -> String {
    let pairs = many(suggestion.pairs, "pair");
    let effect = match suggestion.change.as_str() {
        "add-public-member" => format!("of {pairs} it would be known"),
        "allow-udp" => format!("nothing can be exchanged in {pairs} until then"),
        _ => format!("{pairs} more would be direct"),
    };
    match suggestion.others {
        0 => effect,
        1 => format!("{effect} (or the same at 1 other)"),
        n => format!("{effect} (or the same at any of {n} others)"),
    }
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
