//! What an operator reads.

use crate::doctor::Report as _;
use crate::doctor::facts::{Facts, id, start};
use crate::json::doctor::{AbsentJson, AdviceJson, ClockJson, LookupJson, PairsJson, SuggestionJson};

#[test]
fn a_node_that_works_is_one_screen() {
    let mut facts = Facts::working();
    facts.conclude();
    let want = "\
node               attic (aaaaaaaaaa), 1.2.3
UDP                works
IPv4               inside 192.168.1.7; outside 44.10.1.2:4433
IPv6               inside none; outside not known
NAT                port-restricted, confidence 0.99, found 61 s ago
  mapping          endpoint-independent
  filtering        address-and-port-dependent
  ports            preserving, seen: 3 different ones from 40001 to 40009
  hairpin          not known: it is not tried
  double NAT       not known: the router was not asked for its address, or did not say
  mappings last    long enough so far; sessions are kept alive every 15 s
port mapping       off (this program is built without it)
clock              agrees with most of 3 members
datagrams          1200 to 1343 bytes of payload over 3 direct sessions
members            3 direct
could relay        2 members reached straight, of 2 that relay
start addresses    44.10.9.1:4433 connected (fra-1)
verdict            this node works, and reaches 3 members directly
";
    assert_eq!(facts.text(), want);
    assert!(facts.can_work());
}

#[test]
fn a_node_without_udp_ends_with_the_reason() {
    let mut facts = Facts::alone();
    facts.udp = "blocked".into();
    facts.start = vec![start("203.0.113.1:4433", "silent"), start("[2001:db8::1]:4433", "unusable")];
    facts.conclude();
    let text = facts.text();
    let tail: Vec<&str> = text.lines().rev().take(5).collect();
    let want = [
        "verdict            this node cannot work: UDP is blocked here, or nobody runs at the addresses to start from",
        "                   see that a node runs at 203.0.113.1:4433",
        "to improve it      let outgoing UDP through, and its answers back in, at the firewall of this host or network",
        "                   [2001:db8::1]:4433 unusable: this node does not listen on such an address",
        "start addresses    203.0.113.1:4433 no answer in 3 attempts",
    ];
    assert_eq!(tail, want);
    assert!(!facts.can_work());
}

/// The most there can be of everything, and names that would move the cursor.
#[test]
fn the_worst_report_is_still_one_screen_of_printable_text() {
    let mut facts = Facts::working();
    facts.name = "bad\x1b[2Jname".into();
    facts.start = (1..=64).map(|n| start(&format!("203.0.113.{n}:1"), "silent")).collect();
    facts.ipv4.inside = (1..=64).map(|n| format!("10.0.0.{n}").parse().unwrap()).collect();
    facts.members.relayed = 3;
    facts.relays.direct = 0;
    (facts.nat.class, facts.nat.missing) = ("unknown".into(), Some("another".into()));
    facts.clock = Some(ClockJson { ahead_ms: -7_200_000, members: 1 });
    facts.datagram.as_mut().unwrap().black_holes = 2;
    facts.conclude();
    let text = facts.text();
    assert!(text.lines().count() <= 32, "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    assert!(text.contains("inside 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 60 more"), "{text}");
    assert!(text.contains("clock              2 h behind the only other member"), "{text}");
    assert!(text.contains("and 60 more"), "{text}");
}

#[test]
fn what_was_learned_is_said() {
    let mut facts = Facts::working();
    facts.hairpin.seen_with = Some("cellar".into());
    facts.mapping_lifetime.expired_after_ms = Some(28_000);
    facts.mapping_lifetime.replaced_after_ms = Some(300_000);
    (facts.double_nat.state, facts.double_nat.evidence) = ("yes".into(), Some("router-is-inside".into()));
    let text = facts.text();
    for fact in [
        "works: cellar is reached at the NAT's own outside address",
        "one was gone after 28 s of silence, they are replaced at the age of 5 min; sessions are kept alive every 15 s",
        "yes: the router's external address is a private one",
    ] {
        assert!(text.contains(fact), "{fact} is missing:\n{text}");
    }
}

#[test]
fn where_no_node_runs_that_is_the_last_line() {
    let mut facts = AbsentJson {
        running: false,
        home: "/srv/mesh".into(),
        version: "1.2.3".into(),
        name: Some("attic".into()),
        error: None,
        ipv4: Some([192, 168, 1, 7].into()),
        ipv6: None,
        start: vec![
            LookupJson { host: "203.0.113.1:1".into(), addrs: vec!["203.0.113.1:1".parse().unwrap()] },
            LookupJson { host: "gone.example:1".into(), addrs: vec![] },
        ],
        remembered: 2,
        can_work: false,
        verdict: String::new(),
        improve: vec![],
    };
    facts.conclude();
    let want = "\
node               attic, 1.2.3, not running
home               /srv/mesh
UDP                not known: only a running node finds out
IPv4               this host would send from 192.168.1.7
IPv6               no way out
NAT                not known: only a running node finds out
start addresses    203.0.113.1:1
                   gone.example:1 cannot be looked up
remembered         2 places where members were in earlier runs
to improve it      `net-mesh --home /srv/mesh up` starts it; ask again then
                   gone.example:1 cannot be looked up: see to the name, or to the resolver
verdict            no node is running in /srv/mesh
";
    assert_eq!(facts.text(), want);
    assert!(!facts.can_work());
}

fn advice(suggestions: Vec<SuggestionJson>) -> AdviceJson {
    let pairs = PairsJson { direct: 8, undecided: 0, relayed: 2 };
    let (node_id, name, verdict) = (id("a"), "attic".into(), String::new());
    AdviceJson { running: true, node_id, name, members: 5, open: 2, pairs, suggestions, verdict }
}

#[test]
fn the_best_change_is_the_last_line() {
    let suggestion = |change: &str, name: &str, pairs, others| SuggestionJson {
        change: change.into(),
        node_id: Some(id("b")),
        name: Some(name.into()),
        pairs,
        others,
    };
    let mut advice = advice(vec![
        suggestion("open-router", "cellar", 2, 0),
        suggestion("open-firewall", "office", 1, 1),
        suggestion("give-ipv6", "office", 1, 3),
    ]);
    advice.conclude();
    let want = "\
members            5, of which anyone can reach 2
pairs              10
  can be direct    8
  not known        0
  relayed          2
would help         switch on port mapping at cellar, or give it a public address: 2 pairs more would be direct
                   let UDP in at the firewall of office: 1 pair more would be direct (or the same at 1 other)
                   give office an IPv6 address: 1 pair more would be direct (or the same at any of 3 others)
verdict            what helps most: switch on port mapping at cellar, or give it a public address; 2 pairs more would be direct
";
    assert_eq!(advice.text(), want);
}

#[test]
fn where_nothing_helps_that_is_said() {
    let mut advice = advice(vec![]);
    advice.conclude();
    assert_eq!(advice.verdict, "no single change of one member would make another pair direct");
    advice.pairs.relayed = 0;
    advice.conclude();
    assert_eq!(advice.verdict, "every pair can be direct");
    advice.members = 1;
    advice.conclude();
    assert_eq!(advice.verdict, "this node is alone: there are no pairs");
}
